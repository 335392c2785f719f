"""The agent's default limit, 200 connections for one address: who converges, and what is left for everybody else."""

import http.client
import math
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import msgspec

from tests.bench.machines import ConsulTemplate, Contender, Grayctl, Stage, address, stage
from tests.bench.section import Option, Report, Section, table
from tests.support.consul import Consul
from tests.support.process import stop

SIZES = (250, 1000, 4500)
INSTANCES = 3
CHANGES = 20
BUDGET = 90 + 8  # grayctl's connections: watch.max_long_polls, and eight for short calls
_IN_ONE = 60  # Consul takes 64 operations in one transaction
_CONVERGES, _SERVED = 60.0, 30.0
_SETTLES = 15.0  # seconds of peace in which the connections at rest are counted, and after which changes begin
_AFTERWARDS = 20.0  # seconds that are watched after a restart
_ASKS_EVERY, _GIVES_UP, _LOOKS_EVERY = 0.1, 2.0, 0.05
_LISTENS = "0A"


class Asked(msgspec.Struct):
    """What became of the questions of somebody else on the same host."""

    served: int = 0
    failed: int = 0


class Row(msgspec.Struct, kw_only=True):
    """One contender at one size.

    Attributes:
        converged: seconds from its start to its first complete configuration; None: not within a minute.
        peak: the most connections at the agent until the changes were over, the other client's not counted.
        others: the other client's questions meanwhile.
        changes: seconds from a registration to the first answer of a worker that knows it; None: not within 30.
        again: seconds from kill -9 and a restart to a change that is served; None: not within a minute.
        peak_again: the most connections at the agent since then, with those that the killed one left behind.
        others_again: the other client's questions since then.
    """

    services: int
    name: str
    converged: float | None = None
    peak: int = 0
    others: Asked = msgspec.field(default_factory=Asked)
    changes: list[float | None] = msgspec.field(default_factory=list)
    again: float | None = None
    peak_again: int = 0
    others_again: Asked = msgspec.field(default_factory=Asked)


def run(sizes: tuple[int, ...] = SIZES, changes: int = CHANGES) -> Iterator[Row]:
    """Measure each contender at each size, each with an agent of its own, so that nobody meets another's leftovers."""
    kinds = [Grayctl, *([ConsulTemplate] if ConsulTemplate.binary() else [])]
    for size in sizes:
        for kind in kinds:
            yield measure(kind, size, changes)


def report(services: Sequence[int], changes: int) -> Report:
    """Each contender's row at each size."""
    rows = list(run(tuple(services), changes))
    head = ("services", "", "converged s", "connections", "others served", "failed", "change p50 s", "max s")
    after = ("services", "", "served again s", "connections", "others served", "failed")
    parts = [
        table(head, map(_cells, rows)),
        "After kill -9 and a start at once:",
        table(after, map(_cells_again, rows)),
    ]
    if not ConsulTemplate.binary():
        parts.append("consul-template is missing: set CONSUL_TEMPLATE or put it on PATH")
    return Report("\n\n".join(parts), rows, failed(rows))


def failed(rows: Iterable[Row]) -> list[str]:
    """What is wrong with grayctl's rows, whatever the time it took."""
    found = []
    for one in (row for row in rows if row.name == "grayctl"):
        where = f"{one.services} services"
        if one.converged is None or one.again is None or None in one.changes:
            found.append(f"{where}: not everything was served")
        if one.peak > BUDGET or one.peak_again > 2 * BUDGET:
            found.append(f"{where}: {one.peak} connections, {one.peak_again} after a restart")
        if one.others.failed or one.others_again.failed:
            found.append(f"{where}: {one.others.failed} and {one.others_again.failed} questions of others failed")
    return found


def _cells(one: Row) -> tuple[object, ...]:
    took = sorted(math.inf if seconds is None else seconds for seconds in one.changes) or [math.inf]
    others = (one.others.served, one.others.failed)
    middle, last = ("never" if math.isinf(value) else value for value in (statistics.median(took), took[-1]))
    return one.services, one.name, _shown(one.converged), one.peak, *others, middle, last


def _cells_again(one: Row) -> tuple[object, ...]:
    others = (one.others_again.served, one.others_again.failed)
    return one.services, one.name, _shown(one.again), one.peak_again, *others


def _shown(seconds: float | None) -> float | str:
    return "never" if seconds is None else seconds


def measure(kind: type[Contender], size: int, changes: int, *, settles: float = _SETTLES) -> Row:
    """One contender at one size: its start, then changes, then kill -9 and a new start."""
    services = tuple(f"limits-{number:04}" for number in range(size))
    with stage() as here:
        _register(here, services)
        one = kind(here.folder / ("grayctl" if kind is Grayctl else "consul-template"), here.consul, *services)
        one.located = 1
        if isinstance(one, ConsulTemplate):
            one.zone = "64k"  # thousands of larger ones are a gigabyte
        if isinstance(one, Grayctl):
            one.edge.configure(watch=f'services = ["{services[0]}", "limits-*"]')
        row = Row(services=size, name=one.name)
        try:
            _measure(one, here, row, changes, settles)
        finally:
            one.close()
    return row


def _measure(one: Contender, here: Stage, row: Row, changes: int, settles: float) -> None:
    numbers = random.Random(row.services)
    with Watch(here.consul) as watch:
        one.prepare()
        began = time.monotonic()
        one.launch()
        row.converged = _until(lambda: _converged(one), began, _CONVERGES)
        time.sleep(settles)
        if row.converged is not None:
            for weight in range(2, changes + 2):
                time.sleep(2 * numbers.random())
                row.changes.append(_change(one, here, numbers.choice(one.services), weight, _SERVED))
    row.peak, row.others = watch.peak, watch.asked
    with Watch(here.consul) as watch:
        began = time.monotonic()
        assert one.process is not None
        stop(one.process, sig=signal.SIGKILL)
        one.launch()
        if row.converged is not None and _change(one, here, one.services[-1], changes + 2, _CONVERGES) is not None:
            row.again = time.monotonic() - began
        time.sleep(max(0.0, began + _AFTERWARDS - time.monotonic()))
    row.peak_again, row.others_again = watch.peak, watch.asked


def _register(here: Stage, services: tuple[str, ...]) -> None:
    here.consul.call("PUT", "/v1/catalog/register", {"Node": "bench", "Address": "127.0.0.1"})
    every = [_instance(here, name, at, 1) for at, name in enumerate(services)]
    flat = [one for some in every for one in some]
    for at in range(0, len(flat), _IN_ONE):
        some = flat[at : at + _IN_ONE]
        body = [{"Service": {"Verb": "set", "Node": "bench", "Service": one}} for one in some]
        here.consul.call("PUT", "/v1/txn", body)


def _instance(here: Stage, service: str, place: int, weight: int) -> list[dict[str, object]]:
    return [
        {
            "ID": f"{service}-{number}",
            "Service": service,
            "Address": address(place * INSTANCES + number),
            "Port": here.backends.port,
            "Weights": {"Passing": weight, "Warning": 1},
        }
        for number in range(INSTANCES)
    ]


def _converged(one: Contender) -> bool:
    """Both write all or nothing the first time, and nginx answers from it."""
    try:
        return "server " in one.configured(one.services[-1]) and bool(one.ask(1))
    except (AssertionError, KeyError, OSError):
        return False  # nothing is written yet


def _until(condition: Callable[[], bool], began: float, limit: float) -> float | None:
    while not condition():
        if time.monotonic() - began > limit:
            return None
        time.sleep(0.01)
    return time.monotonic() - began


def _change(one: Contender, here: Stage, service: str, weight: int, limit: float) -> float | None:
    place = one.services.index(service)
    changed = _instance(here, service, place, weight)[0]
    body = {"Node": "bench", "Address": "127.0.0.1", "SkipNodeUpdate": True, "Service": changed}
    old, began = one.nginx_workers(), time.monotonic()
    _call_until_heard(here.consul, body)

    def served() -> bool:
        return f" weight={weight};" in one.configured(service) and bool(one.ask(4, "worker") - old)

    return _until(served, began, limit)


def _call_until_heard(consul: Consul, body: dict[str, object]) -> None:
    """Where the agent's connections are used up our own registration has to try as often as anybody else's."""
    while True:
        try:
            consul.call("PUT", "/v1/catalog/register", body)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
        else:
            return


# ---------------------------------------------------------------- the agent's other side


class Watch:
    """Meanwhile: the connections that the agent holds, and how somebody else on the host fares, ten questions a second.

    Attributes:
        peak: the most connections; those of this process are not counted.
        asked: what became of the questions, each on a connection of its own.
    """

    def __init__(self, consul: Consul) -> None:
        self.peak = 0
        self.asked = Asked()
        self._consul = consul
        self._end = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._count, self._ask)]

    def __enter__(self) -> Self:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for one in self._threads:
            one.join()

    def _count(self) -> None:
        own: set[str] = set()
        while not self._end.wait(_LOOKS_EVERY):
            ports, before = held(self._consul), own
            own = ours(self._consul)
            self.peak = max(self.peak, len(ports - own - before))  # the agent closes its end a little later than we do

    def _ask(self) -> None:
        due = time.monotonic()
        while not self._end.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._consul.http_port, timeout=_GIVES_UP)
            try:
                connection.request("GET", "/v1/status/leader")
                served = connection.getresponse().status == http.client.OK
            except (OSError, http.client.HTTPException):
                served = False
            finally:
                connection.close()
            self.asked.served += served
            self.asked.failed += not served
            due = max(due + _ASKS_EVERY, time.monotonic())
            self._end.wait(due - time.monotonic())


def held(consul: Consul) -> set[str]:
    """The other ends' ports of the connections at the agent's HTTP port, also where the other end has gone."""
    assert consul.process is not None
    port, sockets = f":{consul.http_port:04X}", _sockets(consul.process.pid)
    rows = [row for row in _table() if row[1].endswith(port) and row[3] != _LISTENS and row[9] in sockets]
    return {row[2].rpartition(":")[2] for row in rows}


def ours(consul: Consul) -> set[str]:
    """The ports of this process' own connections to the agent."""
    port, sockets = f":{consul.http_port:04X}", _sockets(os.getpid())
    return {row[1].rpartition(":")[2] for row in _table() if row[2].endswith(port) and row[9] in sockets}


def _table() -> list[list[str]]:
    lines = [line for kind in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{kind}").read_text().splitlines()]
    return [row for row in map(str.split, lines) if row[0] != "sl"]


def _sockets(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = str(entry.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
        if link.startswith("socket:["):
            found.add(link[len("socket:[") : -1])
    return found


SECTION = Section(
    "limits",
    "an agent with its default limit of 200 connections, and who else can ask it, grayctl beside consul-template",
    report,
    {
        "services": Option(SIZES, (250,), "how many, each size with an agent of its own"),
        "changes": Option(CHANGES, 5, "of one service each, at each size"),
    },
)
