"""Live records: what is in force beside the policy, worked out and written down. Pure.

A policy belongs to people, its live record to the machine: which version stable means, the salt, and whose each user
is. `follow` makes the record that belongs to a policy out of the one before, so it is the same whoever makes it, but
for the salt; the record of a revision is therefore written once, by check-and-set, and read by everybody.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated

import msgspec

from grayctl.model.catalog import Entry
from grayctl.model.release import HUNDRED_PERCENT, Live, Release, Ring, Slot
from grayctl.policy.slots import Shares, allot, allot_route, shares_of

FORMAT = 1
_REVISION = 16


def revision_of(text: bytes) -> str:
    """The name of a policy's text, every byte of it: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(text).hexdigest()[:_REVISION]


def follow(release: Release, revision: str, before: Live | None, draw_salt: Callable[[], str]) -> Live:
    """The live record of a policy.

    Nobody moves who need not: see `grayctl.policy.slots`. While no version has a share, general or in a route, there
    is nothing to remember; the first one that is given draws a new salt, so that not always the same users are first.

    Args:
        release: the policy, checked.
        revision: `revision_of` its text.
        before: the service's last live record, whatever revision it belongs to; None when there is none.
        draw_salt: called at most once; letters and digits.
    """
    given = _given(release.shares) or any(_given(route.shares) for route in release.routes)
    if not given:
        return Live(revision=revision, salt=before.salt if before else "", stable=release.stable)
    if before is None or not gives_shares(before):
        before = Live(revision="", salt=draw_salt(), stable="")
    ring = allot(before.ring, release.shares)
    rings = dict(before.route_rings)
    return Live(
        revision=revision,
        salt=before.salt,
        stable=release.stable,
        ring=ring,
        route_rings=tuple(
            (route.name, allot_route(rings.get(route.name, ()), ring, route.shares))
            for route in sorted(release.routes, key=lambda route: route.name)
            if route.shares
        ),
    )


def is_half(policies: Sequence[Entry], lives: Sequence[Entry]) -> bool:
    """Whether the newest of these entries is a policy without its live record, or the other way round.

    The two are written in one transaction. Until both are there, what was in force stays in force.
    """
    newest = max((*policies, *lives), key=attrgetter("modify_index"), default=None)
    if newest is None:
        return False
    policy, seen = _beside(newest, policies), _beside(newest, lives)
    live = decode_live(seen.key, seen.value) if seen else None
    if isinstance(live, Live):
        return policy is None or live.revision != revision_of(policy.value)
    return policy is not None


def _beside(newest: Entry, entries: Sequence[Entry]) -> Entry | None:
    """The same service's."""
    _, slash, service = newest.key.rpartition("/")
    return next((one for one in entries if one.key.endswith(slash + service)), None)


def _given(shares: Shares) -> bool:
    return any(share for _, share in shares)


def gives_shares(live: Live) -> bool:
    """Whether any version has a share, general or in a route."""
    return any(shares_of(ring) for ring in (live.ring, *(ring for _, ring in live.route_rings)))


# ---------------------------------------------------------------- as it is stored


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A live record that cannot be used; `reason` names the key, says what is wrong and what to do."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The release was ended on purpose: without this mark a policy that is gone from Consul stays in force."""


_ENDED = {"format": FORMAT, "ended": True}


def encode_ended() -> bytes:
    """The live record of a release that was ended."""
    return msgspec.json.encode(_ENDED)


_Version = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]{0,62})?\Z")]


class _Slot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    owner: _Version
    width: Annotated[int, msgspec.Meta(ge=1, le=HUNDRED_PERCENT)]
    held: bool


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    revision: Annotated[str, msgspec.Meta(pattern=rf"^[0-9a-f]{{{_REVISION}}}\Z")]
    salt: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]*\Z", max_length=64)]
    stable: Annotated[_Version, msgspec.Meta(min_length=1)]
    ring: tuple[_Slot, ...]
    route_rings: dict[str, tuple[_Slot, ...]]


class _Format(msgspec.Struct):
    format: int
    ended: bool = False


def encode_live(live: Live) -> bytes:
    """A live record as it is stored: JSON, one line."""
    return msgspec.json.encode(
        _Record(
            format=FORMAT,
            revision=live.revision,
            salt=live.salt,
            stable=live.stable,
            ring=_stored(live.ring),
            route_rings={name: _stored(ring) for name, ring in live.route_rings},
        )
    )


def decode_live(key: str, value: bytes) -> Live | Ended | Unreadable:
    """A live record as it was written under `key`; a later grayctl's is refused, never half understood."""
    record = _record(key, value)
    if not isinstance(record, _Record):
        return record
    rings = {"ring": record.ring} | {f"route_rings.{name}": ring for name, ring in record.route_rings.items()}
    for name, ring in rings.items():
        if sum(slot.width for slot in ring) > HUNDRED_PERCENT:
            return _damaged(key, f"`{name}` is wider than {HUNDRED_PERCENT} hundredths of a percent")
        if any(slot.held and not slot.owner for slot in ring):
            return _damaged(key, f"`{name}` holds a slot for nobody")
    if not record.salt and any(slot.held for ring in rings.values() for slot in ring):
        return _damaged(key, "there are shares and no salt")
    return Live(
        revision=record.revision,
        salt=record.salt,
        stable=record.stable,
        ring=_ring(record.ring),
        route_rings=tuple((name, _ring(ring)) for name, ring in sorted(record.route_rings.items())),
    )


def _record(key: str, value: bytes) -> _Record | Ended | Unreadable:
    try:
        found = msgspec.json.decode(value, type=_Format)
        if found.format != FORMAT:
            return Unreadable(
                f"{key}: written in format {found.format}; this grayctl knows {FORMAT}. Upgrade grayctl on this machine"
            )
        return Ended() if found.ended else msgspec.json.decode(value, type=_Record)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        return _damaged(key, str(error))


def _damaged(key: str, what: str) -> Unreadable:
    return Unreadable(
        f"{key}: this is no live record: {what}. Only grayctl writes this key: delete it, then apply the policy again"
    )


def _stored(ring: Ring) -> tuple[_Slot, ...]:
    return tuple(_Slot(slot.owner, slot.width, slot.held) for slot in ring)


def _ring(stored: tuple[_Slot, ...]) -> Ring:
    return tuple(Slot(slot.owner, slot.width, slot.held) for slot in stored)
