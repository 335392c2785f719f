"""Every write to Consul: by check-and-set, so that nobody's change is lost in silence."""

import msgspec

from grayctl.consul.client import ConsulClient, bounded
from grayctl.errors import ConsulProtocolError
from grayctl.model.catalog import Entry, Freeze
from grayctl.model.drain import Drains
from grayctl.model.node import FleetNode, NodeReport
from grayctl.policy.drains import decode_drains


def freeze_key(prefix: str) -> str:
    """The fleet's brake, below the settings' `consul.prefix`."""
    return f"{prefix}/freeze"


async def read_freeze(client: ConsulClient) -> Entry | None:
    """The fleet's brake as stored; None when there is none.

    Raises:
        ConsulError: after a few attempts.
    """
    key = freeze_key(client.settings.prefix)
    reply = await bounded(lambda: client.kv(key))
    return next((entry for entry in reply.value if entry.key == key), None)


async def put_freeze(client: ConsulClient, freeze: Freeze, *, seen: Entry | None) -> bool:
    """Pull the fleet's brake, if it still is as `seen` (None: released).

    Returns:
        False when somebody else changed it meanwhile: read it again, then decide again.

    Raises:
        ConsulError: not tried again here, since a write may have happened although its answer was lost.
    """
    key = freeze_key(client.settings.prefix)
    return await client.put(key, msgspec.json.encode(freeze), cas=seen.modify_index if seen else 0)


async def delete_freeze(client: ConsulClient, *, seen: Entry) -> bool:
    """Release the fleet's brake, if it still is as `seen`; returns and raises as `put_freeze`."""
    return await client.delete(freeze_key(client.settings.prefix), cas=seen.modify_index)


# ---------------------------------------------------------------- the nodes


def node_key(prefix: str, node: str) -> str:
    """Where a node reports; `node` empty for all of them."""
    return f"{prefix}/nodes/{node}"


async def acquire_node(client: ConsulClient, report: NodeReport, *, session: str) -> bool:
    """Write a node's report and hold it by `session`; False when another session holds it.

    Raises:
        ConsulError: not tried again here.
    """
    key = node_key(client.settings.prefix, report.node)
    return await client.acquire(key, msgspec.json.encode(report), session=session)


async def read_nodes(client: ConsulClient) -> tuple[FleetNode, ...]:
    """Every node that has ever reported and was not forgotten, sorted by name.

    Raises:
        ConsulError: after a few attempts.
        ConsulProtocolError: a report cannot be read.
    """
    reply = await bounded(lambda: client.kv(node_key(client.settings.prefix, "")))
    return tuple(decode_node(entry) for entry in reply.value)


async def read_node(client: ConsulClient, node: str) -> FleetNode | None:
    """One node's report; raises as `read_nodes`."""
    key = node_key(client.settings.prefix, node)
    reply = await bounded(lambda: client.kv(key))
    return next((decode_node(entry) for entry in reply.value if entry.key == key), None)


def decode_node(entry: Entry) -> FleetNode:
    """A report as stored.

    Raises:
        ConsulProtocolError: it is none.
    """
    try:
        return FleetNode(report=msgspec.json.decode(entry.value, type=NodeReport), session=entry.session)
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ConsulProtocolError(f"{entry.key}: this is no node report: {error}. Delete the key") from error


# ---------------------------------------------------------------- drains


async def read_drains(client: ConsulClient, service: str) -> tuple[Entry | None, Drains]:
    """A service's drained instances, and the entry to compare with when they are written.

    Raises:
        ConsulError: after a few attempts.
        ConsulProtocolError: they cannot be read.
    """
    found = await bounded(lambda: client.entry(_drains_key(client, service)))
    if found is None:
        return None, Drains()
    drains = decode_drains(found)
    if isinstance(drains, str):
        raise ConsulProtocolError(drains)
    return found, drains


async def put_drains(client: ConsulClient, service: str, drains: Drains, *, seen: Entry | None) -> bool:
    """Write them, if they still are as `seen`; returns and raises as `put_freeze`."""
    key, index = _drains_key(client, service), seen.modify_index if seen else 0
    if not drains.instances and seen is not None:
        return await client.delete(key, cas=index)
    return await client.put(key, msgspec.json.encode(drains), cas=index)


def _drains_key(client: ConsulClient, service: str) -> str:
    return f"{client.settings.prefix}/drains/{service}"
