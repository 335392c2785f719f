"""Lists in Consul: `lists/<name>/<part>`, parts 000, 001, ...; a list is all of its parts, whatever their numbers.

A list is replaced in one transaction when what differs fits into one: a daemon sees the old list or the new one, and
nothing else. Otherwise the new parts are written beside the old ones, and then the old ones are deleted together. In
between a daemon sees the old list and more and more of the new one: whoever is on both is never missing, nobody is on
it who is on neither, and those who are on the old one alone leave at the end. A writer that dies in between leaves
both there; whoever puts the list again replaces all of it.
"""

from collections.abc import Sequence

from grayctl.consul import transaction
from grayctl.consul.client import ConsulClient, bounded
from grayctl.consul.transaction import MAX_OPERATIONS, Operation
from grayctl.model.catalog import Entry

Parts = tuple[Entry, ...]


async def get_list(client: ConsulClient, name: str) -> Parts:
    """A list's parts in their order; none when there is no such list.

    Raises:
        ConsulError: after a few attempts.
    """
    return (await bounded(lambda: client.kv(_key(client, name, "")))).value


async def get_lists(client: ConsulClient) -> dict[str, Parts]:
    """Every list's parts, by name, sorted; raises as `get_list`."""
    found: dict[str, list[Entry]] = {}
    for entry in (await bounded(lambda: client.kv(_key(client, "")))).value:
        found.setdefault(entry.key.rsplit("/", 2)[-2], []).append(entry)
    return {name: tuple(parts) for name, parts in found.items()}


async def put_list(client: ConsulClient, name: str, parts: Sequence[bytes], *, seen: Parts) -> tuple[str, ...]:
    """Replace a list, if it still is as `seen`.

    Args:
        client: where to.
        name: of the list.
        parts: `grayctl.policy.lists.parts_of` its text.
        seen: what `get_list` returned.

    Returns:
        The keys that somebody else changed meanwhile: the list is theirs. Without any, it is done.

    Raises:
        ConsulDenied: the token may not write it.
        ConsulError: not tried again: it may have been done, or be half done as the module says: put the list again.
    """
    at_once = _in_one(client, name, parts, seen)
    if transaction.fits(at_once):
        return await client.transact(at_once)
    return await _beside(client, name, parts, seen)


def _in_one(client: ConsulClient, name: str, parts: Sequence[bytes], seen: Parts) -> list[Operation]:
    """Part for part in the old ones' places; what stays the same is only checked."""
    old = {entry.key: entry for entry in seen}
    new = {_key(client, name, f"{number:03d}"): part for number, part in enumerate(parts)}
    found = [transaction.remove(key, seen=entry.modify_index) for key, entry in old.items() if key not in new]
    for key, part in new.items():
        index = old[key].modify_index if key in old else 0
        same = key in old and old[key].value == part
        found.append(transaction.check(key, seen=index) if same else transaction.write(key, part, seen=index))
    return found


async def _beside(client: ConsulClient, name: str, parts: Sequence[bytes], seen: Parts) -> tuple[str, ...]:
    first = _free(seen, len(parts))
    new = {_key(client, name, f"{first + number:03d}"): part for number, part in enumerate(parts)}
    for key, part in new.items():
        if not await client.put(key, part, cas=0):
            return await _given_up(client, name, new, key)
    found = await get_list(client, name)
    mine = tuple(entry for entry in found if entry.key in new)
    if tuple(entry for entry in found if entry not in mine) != seen:
        return await _given_up(client, name, new, _key(client, name, ""))
    checks = [transaction.check(entry.key, seen=entry.modify_index) for entry in mine]
    step = (MAX_OPERATIONS - len(checks)) // 2
    for start in range(0, len(seen), step):
        removals: list[Operation] = []
        for entry in seen[start : start + step]:  # delete-cas of a key that is gone would say nothing
            removals += [transaction.check(entry.key, seen=entry.modify_index), transaction.prune(entry.key)]
        stale = await client.transact(checks + removals)
        if stale:
            return await _given_up(client, name, new, *stale)
    return ()


async def _given_up(client: ConsulClient, name: str, new: dict[str, bytes], *stale: str) -> tuple[str, ...]:
    """Take back what was written: the list is somebody else's."""
    for entry in await get_list(client, name):
        if new.get(entry.key) == entry.value and entry.key not in stale:
            await client.delete(entry.key, cas=entry.modify_index)
    return stale


def _free(seen: Parts, wanted: int) -> int:
    """The number of the first of so many parts that are not there."""
    numbers = [int(part) for entry in seen if (part := entry.key.rpartition("/")[2]).isdigit()]
    return 0 if min(numbers, default=wanted) >= wanted else max(numbers) + 1


def _key(client: ConsulClient, *parts: str) -> str:
    return "/".join((client.settings.prefix, "lists", *parts))
