"""A complete catalog, read once: for a command that runs without the daemon."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from grayctl.consul.client import SHORT_CONNECTIONS, ConsulClient, bounded
from grayctl.consul.names import Resolver
from grayctl.consul.selection import KV_NAMES, host_names, kv_entries, kv_query, wanted_services
from grayctl.model.catalog import Catalog
from grayctl.settings import Settings

T = TypeVar("T")


async def read_catalog(client: ConsulClient, settings: Settings, resolver: Resolver | None = None) -> Catalog:
    """Everything watched, now.

    Raises:
        ConsulError: when any part could not be read after a few attempts; never a part of a catalog.
    """
    resolver = resolver or Resolver()
    free = asyncio.Semaphore(SHORT_CONNECTIONS)
    prefix = settings.consul.prefix

    async def ask(call: Callable[[], Awaitable[T]]) -> T:
        async with free:
            return await bounded(call)

    listed = await ask(client.services)
    names = sorted(wanted_services(listed.value, settings.watch))
    # before the others: what is not staged here any more has become the release that is read then
    staged = await ask(partial(client.kv, kv_query(prefix, "staged")))
    others = [name for name in KV_NAMES if name != "staged"]
    try:
        async with asyncio.TaskGroup() as group:
            health = {name: group.create_task(ask(partial(client.health, name))) for name in names}
            pairs = {name: group.create_task(ask(partial(client.kv, kv_query(prefix, name)))) for name in others}
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # one fault says it all; the other reads were cancelled
    services = {name: task.result().value for name, task in health.items()}
    replies = {"staged": staged} | {name: task.result() for name, task in pairs.items()}
    await resolver.ensure(host_names(one for found in services.values() for one in found))
    return Catalog(
        services=services,
        names=resolver.answers,
        kv={name: kv_entries(prefix, name, reply.value) for name, reply in replies.items()},
    )
