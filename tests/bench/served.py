"""Registration to served: how long after a registration nginx gives the first answer that comes from it."""

import statistics
import time
from contextlib import ExitStack
from functools import partial

import msgspec

from tests.bench.machines import Backends, ConsulTemplate, Contender, Grayctl, address, stage
from tests.support.process import wait_until

_QUIET = 0.35  # seconds between two changes: each meets an nginx at rest, its old workers gone
_POLL = 0.0005
# nginx takes 16 connections in a row before the next worker has its turn, so whoever asks one by one waits for up to 32
# answers of the two old workers; connections that stand at the same time are taken by old and new ones alike
_AT_ONCE = 8
_LIMIT = 10.0


class Result(msgspec.Struct, frozen=True):
    """Milliseconds from before the registration is sent to the first answer; None: the tool is missing."""

    name: str
    samples: list[float] | None

    def quantile(self, share: float) -> float:
        ordered = sorted(self.samples or [])
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def median(self) -> float:
        return statistics.median(self.samples or [])


def run(changes: int) -> list[Result]:
    """Measure `changes` registrations for each contender, alternating, on one agent."""
    with stage() as here, ExitStack() as stack:
        contenders: list[Contender] = [Grayctl(here.folder / "grayctl", here.consul)]
        if ConsulTemplate.binary() is not None:
            contenders.append(ConsulTemplate(here.folder / "consul-template", here.consul))
        samples: dict[str, list[float]] = {}
        for one in contenders:
            _register(one, here.backends, 0)
            stack.callback(one.close)
            one.start()
            wait_until(partial(_serves_first, one), f"{one.name} serves the first instance")
            samples[one.name] = []
        for number in range(1, changes + 1):
            for one in contenders if number % 2 else reversed(contenders):
                time.sleep(_QUIET)
                samples[one.name].append(_change(one, here.backends, number))
    return [Result(name, samples.get(name)) for name in ("grayctl", "consul-template")]


def _serves_first(one: Contender) -> bool:
    return address(0) in one.ask(1)


def _change(one: Contender, backends: Backends, number: int) -> float:
    wanted = address(number)
    began = time.perf_counter()
    _register(one, backends, number)
    while wanted not in one.ask(_AT_ONCE):
        if time.perf_counter() - began > _LIMIT:
            raise AssertionError(f"{one.name}: {wanted} was not served within {_LIMIT:g} s")
        time.sleep(_POLL)
    return (time.perf_counter() - began) * 1000


def _register(one: Contender, backends: Backends, number: int) -> None:
    one.consul.call(
        "PUT",
        "/v1/agent/service/register",
        {"Name": one.services[0], "ID": one.name, "Address": address(number), "Port": backends.port},
    )
