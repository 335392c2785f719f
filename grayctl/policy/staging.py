"""Staged policies: only the nodes in scope follow them, with a live record, shares and a salt of their own. Pure.

The key `staged/<service>` holds the policy's text, its scope and its live record together, so that a node sees all of
it or nothing.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from grayctl.model.release import HUNDRED_PERCENT, Live
from grayctl.policy.live import FORMAT, Unreadable, decode_live, encode_live
from grayctl.policy.shares import percent

_LABEL = re.compile(r"labels\.([^=]+)=(.*)\Z")
_PERCENT = re.compile(r"percent=([0-9]{1,3})(?:\.([0-9]{1,2}))?%?\Z")


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which nodes follow a staged policy: all that have the labels, and of these a share.

    Attributes:
        labels: what a node's settings must say, all of it.
        share: in hundredths of a percent; a larger one covers all that a smaller one covers.
    """

    labels: dict[str, str] = {}
    share: Annotated[int, msgspec.Meta(ge=1, le=HUNDRED_PERCENT)] = HUNDRED_PERCENT

    def covers(self, service: str, node: str, labels: Mapping[str, str]) -> bool:
        """Whether a node follows; which ones make up a share differs from service to service."""
        if any(labels.get(name) != value for name, value in self.labels.items()):
            return False
        place = int.from_bytes(hashlib.sha256(f"{service}\0{node}".encode()).digest()[:8])
        return place % HUNDRED_PERCENT < self.share

    def includes(self, other: "Scope") -> bool:
        """Whether it covers at least what the other covers."""
        return self.labels.items() <= other.labels.items() and self.share >= other.share

    @property
    def text(self) -> str:
        """As `parse_scope` reads it, for messages."""
        words = [f"labels.{name}={value}" for name, value in sorted(self.labels.items())]
        if self.share < HUNDRED_PERCENT or not words:
            words.append(f"percent={percent(self.share)}")
        return ", ".join(words)


def parse_scope(words: Iterable[str]) -> Scope:
    """A scope from `labels.env=staging` and `percent=10`; several words hold together.

    Raises:
        ValueError: a word is neither, says something twice, or a percentage is not above 0 and at most 100.
    """
    labels: dict[str, str] = {}
    share: int | None = None
    for word in words:
        if found := _LABEL.match(word):
            if labels.setdefault(found[1], found[2]) != found[2]:
                raise ValueError(f"{word!r}: this label is asked for twice, and no node has both")
            continue
        found = _PERCENT.match(word)
        if not found or share is not None:
            raise ValueError(f"{word!r} is no scope: write labels.NAME=VALUE, and percent=NUMBER once")
        share = int(found[1]) * 100 + int((found[2] or "").ljust(2, "0"))
        if not 0 < share <= HUNDRED_PERCENT:
            raise ValueError(f"{word!r}: a percentage of the nodes is above 0 and at most 100")
    return Scope(labels, HUNDRED_PERCENT if share is None else share)


@dataclass(frozen=True, slots=True)
class Staged:
    """A policy with a scope, and what is in force beside it where it is followed."""

    scope: Scope
    text: bytes
    live: Live


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    scope: Scope
    text: str
    live: msgspec.Raw


class _Format(msgspec.Struct):
    format: int


def encode_staged(staged: Staged) -> bytes:
    """A staged policy as it is stored: JSON."""
    live = msgspec.Raw(encode_live(staged.live))
    return msgspec.json.encode(_Record(format=FORMAT, scope=staged.scope, text=staged.text.decode(), live=live))


def decode_staged(key: str, value: bytes) -> Staged | Unreadable:
    """A staged policy as it was written under `key`; the text itself is not judged here."""
    try:
        found = msgspec.json.decode(value, type=_Format).format
        if found != FORMAT:
            return Unreadable(
                f"{key}: written in format {found}; this grayctl knows {FORMAT}. Upgrade grayctl on this machine"
            )
        record = msgspec.json.decode(value, type=_Record)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        return Unreadable(f"{key}: this is no staged policy: {error}. Write it with `grayctl release apply --scope`")
    live = decode_live(key, bytes(record.live))
    if isinstance(live, Live):
        return Staged(record.scope, record.text.encode(), live)
    return live if isinstance(live, Unreadable) else Unreadable(f"{key}: its live record says that it has ended")
