"""Storms: many changes in a short time while nginx is under load, and what they cost grayctl and consul-template."""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import msgspec

from grayctl.settings import ReloadSettings
from tests.bench.load import NO_LOAD, Load, wrk
from tests.bench.machines import ConsulTemplate, Contender, Grayctl, Stage, address, server_line, stage
from tests.bench.section import Option, Report, Section, ratio, table
from tests.support.process import wait_until

SERVICES, INSTANCES = 100, 10
PER_SECOND = 5
AT_ONCE, ROLLED = 100, 50
_STEP = 0.1  # seconds between two acts of a rolling deployment
_CALM = 3  # seconds of load after the last change; whoever waits, has gone by then
_POLL, _SAMPLE = 0.001, 0.05
_FINAL_WITHIN = 30.0
_IN_ONE = 64  # operations that a transaction takes
_SERVER = re.compile(r"server [^\s;]+(?: weight=\d+)?;")
_NODE = {"Node": "storms", "Address": "127.0.0.1"}
_WAIT = 'wait {\n  min = "200ms"\n  max = "2s"\n}'

Act = tuple[float, Callable[[], None]]  # seconds since the storm began


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One storm over one contender.

    Attributes:
        changes: that were made in Consul.
        seconds: from the first to the last.
        reloads: of nginx, by its own log.
        workers: the most that were alive at one time, old and new ones.
        memory: the most that nginx took at one time, master and all workers, in bytes; shared pages counted once.
        late: seconds from the last change to the first answer that comes from it.
        wrong: what is not as the last change left it; empty when all is.
    """

    storm: str
    name: str
    changes: int
    seconds: float
    reloads: int
    workers: int
    memory: int
    load: Load
    late: float
    wrong: str


@dataclass(frozen=True, slots=True)
class Storm:
    """What happens to the services of one contender.

    Attributes:
        acts: in order.
        asked: the services that wrk asks for.
        servers: service -> the servers that its upstream must have in the end.
    """

    acts: Sequence[Act]
    asked: Sequence[str]
    servers: dict[str, set[str]]


Kind = Callable[["Services", int], Storm]


class Services:
    """The services of one contender: a hundred of ten instances, one of them of fifty, and a probe of one."""

    def __init__(self, here: Stage, name: str, count: int) -> None:
        self._call = here.consul.call
        self._port = here.backends.port
        self.names = tuple(f"{name}-{number:03}" for number in range(count))
        self.probe = f"{name}-probe"
        self.rolling = f"{name}-rolling"
        self._moved = 0
        every = [self.instance(one, number) for one in self.names for number in range(INSTANCES)]
        every += [self.instance(self.rolling, number) for number in range(ROLLED)]
        every.append(self._probed())
        here.consul.call("PUT", "/v1/catalog/register", _NODE)
        for at in range(0, len(every), _IN_ONE):
            body = [{"Service": {"Verb": "set", "Node": "storms", "Service": one}} for one in every[at : at + _IN_ONE]]
            here.consul.call("PUT", "/v1/txn", body)

    def instance(self, service: str, number: int, weight: int = 1) -> dict[str, object]:
        """A registration; the address follows from its number."""
        weights = {"Passing": weight, "Warning": 1}
        place = {"Address": address(number), "Port": self._port, "Weights": weights}
        return {"ID": f"{service}-{number}", "Service": service} | place

    def server(self, number: int, weight: int = 1) -> str:
        """Its line in an upstream, as both templates write it."""
        return server_line(address(number), self._port, weight)

    def register(self, service: str, number: int, weight: int = 1, *, health: str = "") -> None:
        """Put an instance into the catalog, with a check where `health` is given."""
        self._put(self.instance(service, number, weight), self._check(service, number, health) if health else None)

    def check(self, service: str, number: int, health: str) -> None:
        """Set an instance's health."""
        self._put(None, self._check(service, number, health))

    def leave(self, service: str, number: int) -> None:
        """Take an instance out."""
        self._call("PUT", "/v1/catalog/deregister", {"Node": "storms", "ServiceID": f"{service}-{number}"})

    def move_probe(self) -> str:
        """Move the probe's only instance to another address, which it returns."""
        self._moved += 1
        self._put(self._probed(), None)
        return address(self._moved)

    def _probed(self) -> dict[str, object]:
        return self.instance(self.probe, self._moved) | {"ID": self.probe}

    def _check(self, service: str, number: int, health: str) -> dict[str, str]:
        one = f"{service}-{number}"
        return {"Node": "storms", "CheckID": f"{one}:check", "Name": "check", "ServiceID": one, "Status": health}

    def _put(self, service: dict[str, object] | None, check: dict[str, str] | None) -> None:
        parts = {"Service": service, "Check": check}
        known = {name: part for name, part in parts.items() if part is not None}
        self._call("PUT", "/v1/catalog/register", _NODE | {"SkipNodeUpdate": True} | known)


# ---------------------------------------------------------------- the storms


def weights(of: Services, seconds: int) -> Storm:
    """The weights of different services change, one after another."""
    count = seconds * PER_SECOND
    some = of.names[2:]  # the others keep their weights for the storms to come
    turns = [(some[number % len(some)], 2 + number) for number in range(count)]
    acts = [(number / PER_SECOND, partial(of.register, one, 0, weight)) for number, (one, weight) in enumerate(turns)]
    others = {of.server(number) for number in range(1, INSTANCES)}
    return Storm(acts, of.names, {one: {of.server(0, weight)} | others for one, weight in dict(turns).items()})


def flap(of: Services, seconds: int) -> Storm:
    """One instance turns critical and passing in turns."""
    healths = ["critical", "passing"] * math.ceil(seconds * PER_SECOND / 2)
    acts = [(number / PER_SECOND, partial(of.check, of.names[0], 0, one)) for number, one in enumerate(healths)]
    return Storm(acts, of.names[:1], {of.names[0]: {of.server(number) for number in range(INSTANCES)}})


def at_once(of: Services, seconds: int) -> Storm:
    """A hundred instances join one service, as fast as Consul takes them."""
    del seconds  # it is over at once
    service = of.names[1]
    joined = range(INSTANCES, INSTANCES + AT_ONCE)
    acts = [(0.0, partial(of.register, service, number)) for number in joined]
    return Storm(acts, [service], {service: {of.server(number) for number in range(joined.stop)}})


def rolling(of: Services, seconds: int) -> Storm:
    """Each of up to fifty instances turns critical, leaves, and another one comes that is healthy a moment later."""
    service = of.rolling
    acts, rolled = [], min(ROLLED, math.ceil(seconds / (4 * _STEP)))
    for number in range(rolled):
        new = ROLLED + number
        steps: list[Callable[[], None]] = [
            partial(of.check, service, number, "critical"),
            partial(of.leave, service, number),
            partial(of.register, service, new, health="critical"),
            partial(of.check, service, new, "passing"),
        ]
        acts += [((4 * number + step) * _STEP, act) for step, act in enumerate(steps)]
    return Storm(acts, [service], {service: {of.server(number) for number in range(rolled, ROLLED + rolled)}})


# ---------------------------------------------------------------- one after another


def run(seconds: int, services: int = SERVICES, *, alone: bool = False) -> Iterator[Result]:
    """Let every storm go over each contender, one contender after the other on one agent.

    Args:
        seconds: how long five changes a second last.
        services: how many, of ten instances each.
        alone: grayctl alone, and nobody asks.

    Raises:
        AssertionError: wrk is missing or failed, or a contender does not serve what is registered before the storms.
    """
    with stage(limits={"http_max_conns_per_client": 10_000}) as here:
        every: tuple[Kind, ...] = (weights, flap, at_once, rolling)
        makers: list[tuple[str, Callable[..., Contender], tuple[Kind, ...]]] = [("grayctl", Grayctl, every)]
        if ConsulTemplate.binary() is not None and not alone:
            makers += [
                ("consul-template", ConsulTemplate, every),
                ("ct-wait", partial(ConsulTemplate, wait=_WAIT), every),
                # whether it checks says nothing about how often it reloads: two storms show that
                ("ct-plain", partial(ConsulTemplate, checked=False), (at_once, rolling)),
            ]
        for name, make, kinds in makers:
            of = Services(here, name, services)
            one = make(here.folder / name, here.consul, *of.names, of.rolling, of.probe)
            one.nginx.connections = 4096  # the upstreams keep up to 32 each
            if isinstance(one, Grayctl):
                one.configure(watch=f"max_long_polls = {services + 20}")
            with closing(one):
                one.start()
                for service in one.services:
                    wait_until(partial(one.ask, 1, service), f"{name} serves {service}", seconds=60)
                for kind in kinds:
                    time.sleep(1)  # with the calm of the storm before, the next change is the first one after quiet
                    storm = kind(of, seconds)
                    yield _weather(one, of, kind.__name__.replace("_", " "), storm, loaded=not alone)


def _weather(one: Contender, of: Services, name: str, storm: Storm, *, loaded: bool) -> Result:
    before, over = one.reloads(), Event()
    lasting = storm.acts[-1][0]
    asked = ", ".join(f'"/{service}"' for service in storm.asked)
    # ten milliseconds between an answer and the next request: connections are kept, and mostly idle, as browsers' are
    request = f"""local paths = {{{asked}}}
request = function() return wrk.format("GET", paths[math.random(#paths)]) end
delay = function() return math.random(5, 15) end
"""
    with ThreadPoolExecutor(2, "storm") as pool:
        watching = pool.submit(_watch, one, over)
        try:
            url = f"http://127.0.0.1:{one.nginx.web}/"
            wet = math.ceil(lasting) + 1 + _CALM
            asking = pool.submit(wrk, one.folder, url, wet, request=request) if loaded else pool.submit(time.sleep, wet)
            time.sleep(1)
            began = time.monotonic()
            for at, act in storm.acts:
                time.sleep(max(0.0, began + at - time.monotonic()))
                act()
            changed = time.monotonic() - began
            if len(storm.acts) > 1 and lasting:  # the probe is the last change, and comes like those before it
                time.sleep(max(0.0, began + lasting + storm.acts[-1][0] - storm.acts[-2][0] - time.monotonic()))
            late = _late(one, of)
            load = asking.result() or NO_LOAD
        finally:
            over.set()
        peak_workers, peak_memory = watching.result()
    return Result(
        storm=name,
        name=one.name,
        changes=len(storm.acts) + 1,
        seconds=changed,
        reloads=one.reloads() - before,
        workers=peak_workers,
        memory=peak_memory,
        load=load,
        late=late,
        wrong=_wrong(one, storm),
    )


def _late(one: Contender, of: Services) -> float:
    """Make the last change, and wait for the first answer that comes from it."""
    began = time.monotonic()
    wanted = of.move_probe()
    while wanted not in one.ask(8, of.probe):
        if time.monotonic() - began > _FINAL_WITHIN:
            return math.inf
        time.sleep(_POLL)
    return time.monotonic() - began


def _wrong(one: Contender, storm: Storm) -> str:
    """The first service that is not configured as the storm left it; after the load it has had its time."""
    for service, servers in storm.servers.items():
        configured = set(_SERVER.findall(one.configured(service)))
        if amiss := sorted(configured ^ servers):
            return f"{service} has {len(amiss)} servers too many or too few, such as {amiss[0]}"
    return ""


def _watch(one: Contender, over: Event) -> tuple[int, int]:
    """The most workers, and the most memory, until it is over."""
    workers = memory = 0
    while not over.wait(_SAMPLE):
        pids = one.nginx_workers()
        workers = max(workers, len(pids))
        memory = max(memory, sum(map(_memory, (str(one.nginx.pid), *pids))))
    return workers, memory


def _memory(pid: str) -> int:
    """A process's share of the memory, in bytes; 0 when it has ended meanwhile."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


# ---------------------------------------------------------------- what is told


def report(seconds: int, services: int) -> Report:
    """Every storm's rows, and grayctl's ratios to the others."""
    rows = list(run(seconds, services))
    head = ("storm", "", "changes", "reloads", "workers", "MiB", "requests", "5xx", "lost", "late s")
    parts = [table(head, map(_cells, rows))]
    ours = {one.storm: one for one in rows if one.name == "grayctl"}
    ratios = [_ratios(ours[peer.storm], peer) for peer in rows if peer.name != "grayctl"]
    if ratios:
        parts.insert(0, table(("storm", "grayctl to", "reloads", "failed requests", "memory", "late"), ratios))
    else:
        parts.insert(0, "consul-template is missing: set CONSUL_TEMPLATE or put it on PATH")
    return Report("\n\n".join(parts), rows, failed(rows))


def failed(rows: Sequence[Result]) -> list[str]:
    """What is wrong with grayctl's rows, whatever the time it took."""
    found = []
    for one in rows:
        if one.name != "grayctl":
            continue
        # the first change at once, then one for each interval, and one more for each end of the storm
        most = 3 + (one.seconds + one.late) / ReloadSettings().min_interval
        if one.late == math.inf or one.wrong:
            found.append(f"{one.storm}: the final state is not served: {one.wrong or 'the probe has not moved'}")
        if one.reloads > min(most, one.changes):
            found.append(f"{one.storm}: {one.reloads} reloads for {one.changes} changes in {one.seconds:.1f} s")
    return found


def _cells(one: Result) -> tuple[object, ...]:
    nginx = (one.reloads, one.workers, one.memory / 2**20)
    return one.storm, one.name, one.changes, *nginx, one.load.requests, one.load.refused, one.load.lost, one.late


def _ratios(ours: Result, peer: Result) -> tuple[str, ...]:
    pairs = (
        (ours.reloads, peer.reloads),
        (ours.load.failed, peer.load.failed),
        (ours.memory, peer.memory),
        (ours.late, peer.late),
    )
    return peer.storm, peer.name, *(ratio(*pair) for pair in pairs)


SECTION = Section(
    "storms",
    "many changes in a short time under load, grayctl beside consul-template without and with wait",
    report,
    {
        "seconds": Option(60, 10, "that a storm of five changes a second lasts"),
        "services": Option(SERVICES, 20, "of ten instances each"),
    },
)
