"""Staged policies in Consul: `staged/<service>`, by check-and-set, each act one transaction with its record."""

from grayctl.consul import transaction
from grayctl.consul.client import ConsulClient, bounded
from grayctl.consul.releases import Change, Conflict, Stored, Written, audited, staging, write_releases
from grayctl.consul.transaction import Operation
from grayctl.model.catalog import Entry
from grayctl.model.history import Act, Action, AuditEntry
from grayctl.policy.live import encode_ended
from grayctl.policy.staging import Staged, encode_staged


async def get_staged(client: ConsulClient, service: str) -> Entry | None:
    """What is staged for a service.

    Raises:
        ConsulError: after a few attempts.
    """
    return await bounded(lambda: client.entry(_key(client, service)))


async def list_staged(client: ConsulClient) -> dict[str, Entry]:
    """What is staged, by service; raises as `get_staged`."""
    prefix = _key(client, "")
    return {entry.key.removeprefix(prefix): entry for entry in (await bounded(lambda: client.kv(prefix))).value}


async def write_staged(
    client: ConsulClient, service: str, staged: Staged, action: Action, act: Act, *, seen: Entry | None
) -> Conflict | None:
    """Stage a policy, or another scope of it, if what is staged still is as `seen`.

    Raises:
        ConsulDenied: the token may not write one of the keys; it names them.
        ConsulError: not tried again, since it may have happened although its answer was lost.
    """
    index = seen.modify_index if seen else 0
    stage = transaction.write(_key(client, service), encode_staged(staged), seen=index)
    return _conflict(await client.transact([stage, *await staging(client, service, action, staged.text, act)]))


async def promote(client: ConsulClient, change: Change, act: Act, *, seen: Entry) -> Written | Conflict:
    """Put what is staged into force everywhere: the change of the release and the end of the staging are one.

    Raises:
        ConsulError: as `write_releases`.
    """
    return await write_releases(client, [change], act, also=_unstaging(seen))


async def discard(client: ConsulClient, release: Stored, act: Act, *, seen: Entry) -> Conflict | None:
    """Take back what is staged; its nodes follow the release again, and where there never was one it has ended.

    Raises:
        ConsulError: as `write_staged`.
    """
    entry = AuditEntry(service=release.service, action=Action.DISCARD, number=0, revision="", act=act)
    operations = [*_unstaging(seen), audited(client, entry)]
    if release.nothing:
        index = release.live.modify_index if release.live else 0
        live = f"{client.settings.prefix}/live/{release.service}"
        operations.append(transaction.write(live, encode_ended(), seen=index))
    return _conflict(await client.transact(operations))


def _unstaging(seen: Entry) -> list[Operation]:
    # the check too: taking away what is gone already would pass
    return [transaction.check(seen.key, seen=seen.modify_index), transaction.prune(seen.key)]


def _conflict(stale: tuple[str, ...]) -> Conflict | None:
    return Conflict(stale) if stale else None


def _key(client: ConsulClient, service: str) -> str:
    return f"{client.settings.prefix}/staged/{service}"
