"""One of many services changes: what the watcher costs by itself, from Consul's wake to a published catalog."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import structlog

from grayctl.consul.client import ConsulClient
from grayctl.consul.wake import Wake
from grayctl.consul.watch import Watcher
from grayctl.settings import ConsulSettings, Settings, WatchSettings
from tests.bench.section import Option, Report, Section, quantile, table
from tests.support.consul import Consul

SIZES = (10, 100, 1000, 10_000)
_OTHERS = 300  # connections of everything else on the agent
_IN_ONE = 64  # operations that a transaction takes
_AFTERWARDS = 0.05  # seconds in which the next questions are asked


class Cost(msgspec.Struct, frozen=True):
    """Milliseconds of the watcher's CPU for each change of one service that has a long poll; seconds until the first
    complete catalog."""

    services: int
    complete: float
    changes: list[float]


def run(changes: int, sizes: Sequence[int] = SIZES) -> list[Cost]:
    """Measure `changes` weight changes, each of another service, at each size."""
    found = []
    for size in sizes:
        with TemporaryDirectory(prefix="grayctl-bench-") as folder:
            consul = Consul(Path(folder) / "consul", config={"limits": {"http_max_conns_per_client": size + _OTHERS}})
            try:
                found.append(asyncio.run(_measure(consul, size, changes)))
            finally:
                consul.stop()
    return found


async def _measure(consul: Consul, size: int, changes: int) -> Cost:
    names = [f"service-{number:05}" for number in range(size)]
    _register(consul, names, 1)
    settings = Settings(
        consul=ConsulSettings(address=consul.address),
        watch=WatchSettings(services=("service-*",), max_long_polls=size + 20),
    )
    published = asyncio.Event()

    def publish(_: Wake) -> None:
        published.set()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    async with ConsulClient(settings.consul, connections=settings.watch.max_long_polls) as client:
        began, task = time.monotonic(), asyncio.create_task(Watcher(client, settings, publish).run())
        try:
            await published.wait()
            complete, costs = time.monotonic() - began, []
            await asyncio.sleep(2 + size / 1000)  # all long polls wait
            for number in range(changes):
                published.clear()
                used = time.thread_time()  # this thread's: the registration is sent by another
                await asyncio.to_thread(_register, consul, [names[number * 7919 % size]], number + 2)
                await published.wait()
                await asyncio.sleep(_AFTERWARDS)
                costs.append((time.thread_time() - used) * 1000)
        finally:
            task.cancel()
            await asyncio.wait([task])
    return Cost(size, complete, costs)


def _register(consul: Consul, names: Iterable[str], weight: int) -> None:
    consul.call("PUT", "/v1/catalog/register", {"Node": "bench", "Address": "127.0.0.1"})
    every = [
        {"ID": name, "Service": name, "Address": "10.0.0.1", "Port": 80, "Weights": {"Passing": weight, "Warning": 1}}
        for name in names
    ]
    for at in range(0, len(every), _IN_ONE):
        some = every[at : at + _IN_ONE]
        consul.call("PUT", "/v1/txn", [{"Service": {"Verb": "set", "Node": "bench", "Service": one}} for one in some])


def report(changes: int, services: Sequence[int]) -> Report:
    """A row for each size."""
    costs = run(changes, services)
    smallest = quantile(costs[0].changes, 0.5)
    rows = [
        (one.services, quantile(one.changes, 0.5), quantile(one.changes, 0.95), middle / smallest, one.complete)
        for one in costs
        for middle in (quantile(one.changes, 0.5),)
    ]
    head = ("services", "CPU ms", "p95", f"ratio to {costs[0].services}", "first complete catalog s")
    return Report(table(head, rows), costs)


SECTION = Section(
    "watcher",
    "one of many services changes: the watcher's own CPU, each service with a long poll",
    report,
    {
        "changes": Option(50, 10, "at each size"),
        "services": Option(SIZES, SIZES[:-1], "the sizes; the agent must be allowed as many open files"),
    },
)
