"""A weight changes in one of many services: how long until a worker of nginx serves it, beside consul-template."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count

import msgspec

from tests.bench.machines import Backends, ConsulTemplate, Contender, Grayctl, Stage, address, stage
from tests.support.consul import Consul
from tests.support.process import wait_until

SIZES = (1, 10, 100, 1000)
INSTANCES = 10
_OTHERS = 300  # connections of everything else on the agent
_IN_ONE = 60  # Consul takes 64 operations in one transaction
_LIMIT = 20.0
_POLL = 0.0005
_AT_ONCE = 4


class Row(msgspec.Struct, frozen=True):
    """Milliseconds from before the registration is sent to the first answer of a new worker, for each contender."""

    services: int
    samples: dict[str, list[float]]

    def ratio(self, share: float) -> float | None:
        """Ours to consul-template's, at a quantile; None where that is missing."""
        ours, peer = self.samples["grayctl"], self.samples.get("consul-template")
        return quantile(ours, share) / quantile(peer, share) if peer else None


def quantile(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    return statistics.median(ordered) if share == 0.5 else ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(changes: int, sizes: tuple[int, ...] = SIZES, located: int | None = None) -> Iterator[Row]:
    """Measure `changes` weight changes for each contender at each size, alternating, on one agent with room for all.

    Args:
        changes: of another service each.
        sizes: how many services each contender has.
        located: how many of them have a location; None for all.
    """
    for size in sizes:
        with stage(limits={"http_max_conns_per_client": 2 * size + _OTHERS}) as here, ExitStack() as stack:
            yield Row(size, _measure(here, stack, size, changes, size if located is None else located))


def _measure(here: Stage, stack: ExitStack, size: int, changes: int, located: int) -> dict[str, list[float]]:
    contenders: list[Contender] = [Grayctl(here.folder / "grayctl", here.consul, *_names("grayctl", size))]
    if ConsulTemplate.binary() is not None:
        names = _names("consul-template", size)
        contenders.append(ConsulTemplate(here.folder / "consul-template", here.consul, *names))
    samples: dict[str, list[float]] = {}
    for one in contenders:
        one.located = located
        if isinstance(one, Grayctl):
            one.configure(watch=f"max_long_polls = {size + 20}")
        _register_all(here.consul, one.services, here.backends)
        stack.callback(one.close)
        one.start()
        for service in one.services[:located]:
            wait_until(partial(_serves, one, service), f"{one.name} serves {service}", seconds=120)
        samples[one.name] = []
    # each change meets an nginx at rest, whose old workers are gone
    quiet = 0.4 + size / 1000
    for number in range(1, changes + 1):
        for one in contenders if number % 2 else reversed(contenders):
            time.sleep(quiet)
            samples[one.name].append(_change(one, here.backends, number))
    return samples


def _names(kind: str, size: int) -> tuple[str, ...]:
    return tuple(f"{kind}-{number:04}" for number in range(size))


def _serves(one: Contender, service: str) -> bool:
    return bool(one.ask(1, service))


def _register_all(consul: Consul, services: tuple[str, ...], backends: Backends) -> None:
    consul.call("PUT", "/v1/catalog/register", {"Node": "bench", "Address": "127.0.0.1"})
    numbers = count()
    every = [_instance(name, one, next(numbers), backends, 1) for name in services for one in range(INSTANCES)]
    for at in range(0, len(every), _IN_ONE):
        some = every[at : at + _IN_ONE]
        consul.call("PUT", "/v1/txn", [{"Service": {"Verb": "set", "Node": "bench", "Service": one}} for one in some])


def _instance(service: str, instance: int, number: int, backends: Backends, weight: int) -> dict[str, object]:
    return {
        "ID": f"{service}-{instance}",
        "Service": service,
        "Address": address(number),
        "Port": backends.port,
        "Weights": {"Passing": weight, "Warning": 1},
    }


def _change(one: Contender, backends: Backends, number: int) -> float:
    place = number * 7919 % len(one.services)
    service, weight = one.services[place], 1 + number
    old = one.nginx_workers()
    body = {
        "Node": "bench",
        "Address": "127.0.0.1",
        "SkipNodeUpdate": True,
        "Service": _instance(service, 0, place * INSTANCES, backends, weight),
    }
    began = time.perf_counter()
    one.consul.call("PUT", "/v1/catalog/register", body)
    while one.ask(_AT_ONCE, "worker") <= old:
        if time.perf_counter() - began > _LIMIT:
            raise AssertionError(f"{one.name}: no new worker within {_LIMIT:g} s of a change of {service}")
        time.sleep(_POLL)
    seconds = time.perf_counter() - began
    assert f"weight={weight} " in one.configured(service), f"{one.name} reloaded for something else"
    return seconds * 1000
