"""Releases in Consul: each change of a policy, its live record, its history and its audit is one transaction.

    releases/<service>          the policy, as people wrote it
    live/<service>              what is in force; after a deletion that the release was ended
    history/<service>/<number>  each text that the policy had, or that was staged; the last 50
    audit/<service>/<time>-...  each act; 90 days

Everything is check-and-set against what was read, so of two writers at once one wins and the other is told. A policy
that was edited by hand is put into the history before it is replaced.
"""

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import msgspec

from grayctl.consul import transaction
from grayctl.consul.client import ConsulClient, bounded
from grayctl.consul.transaction import MAX_BYTES, MAX_OPERATIONS, Operation
from grayctl.errors import ConsulProtocolError
from grayctl.model.catalog import Entry
from grayctl.model.history import Act, Action, AuditEntry, Version
from grayctl.model.release import Live
from grayctl.policy.document import LARGEST
from grayctl.policy.live import Ended, decode_live, encode_ended, encode_live, revision_of

T = TypeVar("T")
STAGED = frozenset({Action.STAGE, Action.WIDEN})  # what is in the history, and was not in force everywhere
KEPT_VERSIONS = 50
KEPT_ACTS = 90 * 24 * 3600.0  # seconds
_PRUNED = 8  # old entries that one change removes at most, so that a wrong clock cannot empty the audit
_NEEDED = 4  # operations of one change, without pruning
_SLACK = 8 * 1024  # bytes of one change beside the texts: keys, the act, what is pruned


@dataclass(frozen=True, slots=True)
class Stored:
    """A release as Consul holds it; `live` may belong to another text than `policy`, which then was edited by hand."""

    service: str
    policy: Entry | None
    live: Entry | None

    @property
    def revision(self) -> str:
        """Of the policy; empty when there is none."""
        return revision_of(self.policy.value) if self.policy else ""

    @property
    def nothing(self) -> bool:
        """Whether there is no release: there never was one, or it was ended."""
        if self.policy is not None:
            return False
        return self.live is None or isinstance(decode_live(self.live.key, self.live.value), Ended)


@dataclass(frozen=True, slots=True)
class Change:
    """What shall stand instead of what was `seen`; without a text the release ends, and its live record says so.

    With the text that stands, only the live record is written: that is how an edit by hand is adopted.
    """

    seen: Stored
    action: Action
    text: bytes | None = None
    live: Live | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """It is done; `numbers` are the versions in the services' histories, in the order of the changes."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing is done: somebody else changed these keys since they were read."""

    keys: tuple[str, ...]

    @property
    def message(self) -> str:
        """For a person."""
        return f"{', '.join(self.keys)}: somebody else changed this meanwhile: look at it, then try again"


# ---------------------------------------------------------------- reads


async def get_release(client: ConsulClient, service: str) -> Stored:
    """One service's release.

    Raises:
        ConsulError: after a few attempts.
    """
    policy = await bounded(lambda: client.entry(_key(client, "releases", service)))
    live = await bounded(lambda: client.entry(_key(client, "live", service)))
    return Stored(service, policy, live)


async def list_releases(client: ConsulClient) -> tuple[Stored, ...]:
    """Every service that has a policy or a live record, ended ones too, sorted; raises as `get_release`."""
    found: dict[str, dict[str, Entry]] = {}
    for name in ("releases", "live"):
        prefix = _key(client, name, "")
        for entry in (await bounded(partial(client.kv, prefix))).value:
            found.setdefault(entry.key.removeprefix(prefix), {})[name] = entry
    return tuple(Stored(service, one.get("releases"), one.get("live")) for service, one in sorted(found.items()))


async def history(client: ConsulClient, service: str) -> tuple[Version, ...]:
    """The versions that are kept, oldest first.

    Raises:
        ConsulError: after a few attempts.
        ConsulProtocolError: an entry cannot be read.
    """
    prefix = _key(client, "history", service, "")
    reply = await bounded(lambda: client.kv(prefix))
    found = [_decoded(entry, Version) for entry in reply.value if _number(entry.key, prefix)]
    return tuple(sorted(found, key=lambda one: one.number))


async def version(client: ConsulClient, service: str, number: int) -> Version | None:
    """One version; None when it never was, or is kept no more. Raises as `history`."""
    found = await bounded(lambda: client.entry(_version_key(client, service, number)))
    return None if found is None else _decoded(found, Version)


async def audit(client: ConsulClient, service: str = "") -> tuple[AuditEntry, ...]:
    """The acts on one service, or on all of them, oldest first; raises as `history`."""
    prefix = _key(client, "audit", service, "") if service else _key(client, "audit", "")
    reply = await bounded(lambda: client.kv(prefix))
    found = [_decoded(entry, AuditEntry) for entry in reply.value]
    return tuple(sorted((one for one in found if service in {"", one.service}), key=lambda one: one.act.time))


async def author(client: ConsulClient) -> str:
    """Who we are: the accessor of our token, without ACLs the user of this machine; raises as `get_release`."""
    return await bounded(client.accessor) or getpass.getuser()


# ---------------------------------------------------------------- writes


def portions(changes: Sequence[Change]) -> tuple[tuple[Change, ...], ...]:
    """The changes in order, as many together as one transaction is sure to hold."""
    found: list[list[Change]] = []
    room = operations = 0
    for change in changes:
        size = _size(change)
        if not found or size > room or operations + _NEEDED > MAX_OPERATIONS:
            found.append([])
            room, operations = MAX_BYTES, 0
        found[-1].append(change)
        room -= size
        operations += _NEEDED
    return tuple(tuple(one) for one in found)


async def write_releases(
    client: ConsulClient, changes: Sequence[Change], act: Act, *, also: Sequence[Operation] = ()
) -> Written | Conflict:
    """Make all the changes, or none of them, with their history and their audit, in one transaction.

    `also` is done in the same transaction.

    A policy that was edited by hand and is replaced now comes into the history before, in a transaction of its own.

    Returns:
        Conflict when anything was changed since it was read.

    Raises:
        ConsulTooLarge: more than one transaction holds: see `portions`.
        ConsulDenied: the token may not write one of the keys; it names them.
        ConsulError: a read failed after a few attempts; or the write, which is not tried again, since it may have
            happened although its answer was lost: read before you write again.
    """
    needed: list[Operation] = [*also]
    pruned: list[Operation] = []
    written: list[int] = []
    for change in changes:
        numbers = await _numbers(client, change.seen.service)
        last = numbers[-1] if numbers else 0
        newest = await _newest(client, change.seen.service, numbers)
        if _replaces_an_edit(change, newest):
            newest = _edited(change.seen, last + 1, act)
            last = newest.number
            stale = await client.transact(_keep(client, change.seen, newest))
            if stale:
                return Conflict(stale)
        revision = revision_of(change.text) if change.text is not None else ""
        number = newest.number if revision == newest.revision else last + 1
        mine = Version(number=number, action=change.action, revision=revision, text=_text(change.text), act=act)
        needed += _change(client, change)
        needed += _record(client, change.seen.service, mine, known=number == newest.number)
        old = [_version_key(client, change.seen.service, one) for one in numbers if one <= number - KEPT_VERSIONS]
        old += await _old_acts(client, change.seen.service, act)
        pruned += [transaction.prune(key) for key in old[:_PRUNED]]
        written.append(number)
    stale = await client.transact((needed + pruned)[: max(MAX_OPERATIONS, len(needed))])
    return Conflict(stale) if stale else Written(tuple(written))


def _change(client: ConsulClient, change: Change) -> list[Operation]:
    """The policy and its live record."""
    service, policy, live = change.seen.service, change.seen.policy, change.seen.live
    keys = _key(client, "releases", service), _key(client, "live", service)
    seen = policy.modify_index if policy else 0, live.modify_index if live else 0
    if change.text is None or change.live is None:
        gone = transaction.remove(keys[0], seen=seen[0]) if policy else transaction.check(keys[0], seen=0)
        return [gone, transaction.write(keys[1], encode_ended(), seen=seen[1])]
    stands = policy is not None and policy.value == change.text
    return [
        transaction.check(keys[0], seen=seen[0]) if stands else transaction.write(keys[0], change.text, seen=seen[0]),
        transaction.write(keys[1], encode_live(change.live), seen=seen[1]),
    ]


def _record(client: ConsulClient, service: str, version: Version, *, known: bool) -> list[Operation]:
    """The act, and the version unless the history has its text already."""
    entry = AuditEntry(
        service=service, action=version.action, number=version.number, revision=version.revision, act=version.act
    )
    found = [audited(client, entry)]
    if not known:
        key = _version_key(client, service, version.number)
        found.append(transaction.write(key, msgspec.json.encode(version), seen=0))
    return found


def audited(client: ConsulClient, entry: AuditEntry) -> Operation:
    """What writes an act into the audit."""
    name = f"{_stamp(entry.act.time)}-{entry.number:06d}-{entry.act.trace_id}"
    return transaction.write(_key(client, "audit", entry.service, name), msgspec.json.encode(entry), seen=0)


# ---------------------------------------------------------------- what was edited by hand


def _replaces_an_edit(change: Change, newest: Version) -> bool:
    policy = change.seen.policy
    if policy is None or policy.value == change.text or len(policy.value) > LARGEST:
        return False  # what is too long was never in force
    return change.seen.revision != newest.revision


def _edited(seen: Stored, number: int, act: Act) -> Version:
    found = msgspec.structs.replace(act, author="", reason="edited by hand; found when it was replaced")
    text = _text(seen.policy.value if seen.policy else None)
    return Version(number=number, action=Action.EDIT, revision=seen.revision, text=text, act=found)


def _keep(client: ConsulClient, seen: Stored, version: Version) -> list[Operation]:
    index = seen.policy.modify_index if seen.policy else 0
    stands = transaction.check(_key(client, "releases", seen.service), seen=index)
    return [stands, *_record(client, seen.service, version, known=False)]


# ---------------------------------------------------------------- the history


async def _numbers(client: ConsulClient, service: str) -> list[int]:
    prefix = _key(client, "history", service, "")
    return sorted(filter(None, (_number(key, prefix) for key in await bounded(lambda: client.keys(prefix)))))


async def _newest(client: ConsulClient, service: str, numbers: list[int]) -> Version:
    """The newest version that was in force, not staged; without any, the number 0 of a policy that is not there."""
    for number in reversed(numbers):
        found = await version(client, service, number)
        if found is not None and found.action not in STAGED:
            return found
    nothing = Act(author="", reason="", trace_id="", time=0)
    return Version(number=0, action=Action.DELETE, revision="", text="", act=nothing)


async def staging(client: ConsulClient, service: str, action: Action, text: bytes, act: Act) -> list[Operation]:
    """What writes a text that is staged, or staged for more nodes, into the history and the audit.

    Raises:
        ConsulError: a read failed after a few attempts.
        ConsulProtocolError: an entry of the history cannot be read.
    """
    numbers = await _numbers(client, service)
    last = await version(client, service, numbers[-1]) if numbers else None
    revision = revision_of(text)
    known = last is not None and last.action in STAGED and last.revision == revision
    number = (last.number if last else 0) + (not known)
    mine = Version(number=number, action=action, revision=revision, text=_text(text), act=act)
    old = [_version_key(client, service, one) for one in numbers if one <= number - KEPT_VERSIONS]
    return [*_record(client, service, mine, known=known), *map(transaction.prune, old[:_PRUNED])]


async def _old_acts(client: ConsulClient, service: str, act: Act) -> list[str]:
    prefix = _key(client, "audit", service, "")
    before = prefix + _stamp(act.time - KEPT_ACTS)
    keys = await bounded(lambda: client.keys(prefix))
    return [key for key in keys if key < before and "/" not in key.removeprefix(prefix)]


# ---------------------------------------------------------------- keys and texts


def _key(client: ConsulClient, *parts: str) -> str:
    return "/".join((client.settings.prefix, *parts))


def _version_key(client: ConsulClient, service: str, number: int) -> str:
    return _key(client, "history", service, f"{number:06d}")


def _number(key: str, prefix: str) -> int:
    """A version's number, from 1; 0 for a key that is none."""
    rest = key.removeprefix(prefix)
    return int(rest) if rest.isascii() and rest.isdigit() else 0


def _stamp(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")  # what is no UTF-8 was never in force


def _size(change: Change) -> int:
    """The most that a change takes in a request, where values are base64."""
    live = encode_live(change.live) if change.live else b""
    return _SLACK + sum(
        -(-len(value) // 3) * 4 for value in (change.text or b"", msgspec.json.encode(_text(change.text)), live)
    )


def _decoded(entry: Entry, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(entry.value, type=kind)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ConsulProtocolError(
            f"{entry.key}: this is not what grayctl writes there: {error}. Delete the key"
        ) from error
