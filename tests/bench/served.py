"""Registration to served: how long after a registration nginx gives the first answer that comes from it."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tests.bench.machines import Backends, ConsulTemplate, Contender, Grayctl, ask_at_once
from tests.support.consul import Consul
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
    with TemporaryDirectory(prefix="grayctl-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        consul = stack.enter_context(_agent(folder))
        backends = Backends(folder / "backends")
        stack.callback(backends.close)
        contenders: list[Contender] = [Grayctl(folder / "grayctl", consul)]
        if ConsulTemplate.binary() is not None:
            contenders.append(ConsulTemplate(folder / "consul-template", consul))
        samples: dict[str, list[float]] = {}
        for one in contenders:
            _register(one, backends, 0)
            stack.callback(one.close)
            one.start()
            wait_until(partial(_serves_first, one), f"{one.name} serves the first instance")
            samples[one.name] = []
        for number in range(1, changes + 1):
            for one in contenders if number % 2 else reversed(contenders):
                time.sleep(_QUIET)
                samples[one.name].append(_change(one, backends, number))
    return [Result(name, samples.get(name)) for name in (Grayctl.name, ConsulTemplate.name)]


def _serves_first(one: Contender) -> bool:
    return _address(0) in ask_at_once(one.web, 1)


def _change(one: Contender, backends: Backends, number: int) -> float:
    wanted = _address(number)
    began = time.perf_counter()
    _register(one, backends, number)
    while wanted not in ask_at_once(one.web, _AT_ONCE):
        if time.perf_counter() - began > _LIMIT:
            raise AssertionError(f"{one.name}: {wanted} was not served within {_LIMIT:g} s")
        time.sleep(_POLL)
    return (time.perf_counter() - began) * 1000


def _register(one: Contender, backends: Backends, number: int) -> None:
    one.consul.call(
        "PUT",
        "/v1/agent/service/register",
        {"Name": one.service, "ID": one.service, "Address": _address(number), "Port": backends.port},
    )


def _address(number: int) -> str:
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


@contextmanager
def _agent(folder: Path) -> Iterator[Consul]:
    consul = Consul(folder / "consul")
    try:
        yield consul
    finally:
        consul.stop()
