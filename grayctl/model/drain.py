"""Instances that people took out by hand: `<prefix>/drains/<service>`."""

import msgspec


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """One instance that gets no new requests.

    Attributes:
        author: who took it out.
        reason: in the author's words.
        since: wall clock, seconds since the epoch.
    """

    author: str = ""
    reason: str = ""
    since: float = 0.0


class Drains(msgspec.Struct, frozen=True, kw_only=True):
    """The drained instances of one service, by their id."""

    instances: dict[str, Drain] = {}
