"""Every write to Consul: by check-and-set, so that nobody's change is lost in silence."""

import msgspec

from grayctl.consul.client import ConsulClient, bounded
from grayctl.model.catalog import Entry, Freeze


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
