"""What the tool takes with many services: memory, processor and requests, at rest and for a change."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count

import msgspec

from tests.bench.contenders import CHECKED, MISSING, OURS, Lane, make
from tests.bench.fleet import INSTANCES, Fleet
from tests.bench.machines import ConsulTemplate, stage
from tests.bench.resources import cpu_seconds, memory
from tests.bench.section import Option, Report, Section, ratio, spread, table
from tests.support.background import in_background
from tests.support.process import wait_until
from tests.support.relay import Relay, relay_to

BATCHES = 5
RSS_AIM, IDLE_AIM, CHANGE_AIM = 100.0, 0.5, 1 / 3  # MB, % of a core, of consul-template's
_SETTLE = 10.0  # seconds, after the start, at most as long as the rest
_PAUSE = 0.5  # between two changes
_OTHERS = 300
_MB = 1e6
PEER = "consul-template"
# by default at most 90 long polls, whatever the number of services; and as many as services, as consul-template has
FORMS: Mapping[str, tuple[str, str | None]] = {
    "grayctl, default settings": (OURS, ""),
    "grayctl, a long poll each": (OURS, None),
    PEER: (CHECKED, None),
}
HEAD = ("", "RSS, MB", "peak", "idle, % of a core", "CPU a change, ms", "requests a minute", "a change", "connections")


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """One contender. Its children, `nginx -t` and `nginx -s reload`, are in the processor's figures, not in memory.

    Attributes:
        rss: bytes after the changes; `peak` is the most it has held.
        idle: seconds of the processor for each second of rest.
        per_change: milliseconds of the processor, without what it takes at rest: one mean for each batch of changes.
        requests: to Consul in a minute of rest; `connections` are those of that time.
        requests_per_change: without those of rest.
    """

    name: str
    rss: int
    peak: int
    idle: float
    per_change: list[float]
    requests: float
    requests_per_change: float
    connections: int


def run(services: int, rest: float, changes: int) -> Iterator[Footprint]:
    """Measure one after another: so many seconds of rest, then so many weight changes, in `BATCHES`."""
    with stage(limits={"http_max_conns_per_client": 3 * services + _OTHERS}) as here:
        fleet = Fleet("footprint", services, here, count())
        fleet.register()
        for number, (label, (name, watch)) in enumerate(FORMS.items()):
            if name == OURS or ConsulTemplate.binary() is not None:
                with in_background(relay_to(here.consul.http_port)) as relay:
                    lane = make(name, here.folder / f"form-{number}", here, fleet, watch=watch, agent=relay.address)
                    try:
                        lane.one.start()
                        lane.wait_served()
                        yield _measure(label, lane, relay, rest, changes)
                    finally:
                        lane.one.close()


def _measure(label: str, lane: Lane, relay: Relay, rest: float, changes: int) -> Footprint:
    assert lane.one.process is not None
    pid = lane.one.process.pid
    time.sleep(min(_SETTLE, rest))
    at_rest = _spent(pid, relay, partial(time.sleep, rest))
    connections = relay.open
    batches = [_spent(pid, relay, partial(_batch, lane, changes // BATCHES)) for _ in range(BATCHES)]
    idle, asked = at_rest.cpu / at_rest.seconds, at_rest.requests / at_rest.seconds
    rss, peak = memory(pid)
    return Footprint(
        name=label,
        rss=rss,
        peak=peak,
        idle=idle,
        per_change=[1000 * (one.cpu - idle * one.seconds) / (changes // BATCHES) for one in batches],
        requests=60 * asked,
        requests_per_change=sum(one.requests - asked * one.seconds for one in batches) / (changes // BATCHES * BATCHES),
        connections=connections,
    )


class _Spent(msgspec.Struct, frozen=True):
    cpu: float
    seconds: float
    requests: int


def _spent(pid: int, relay: Relay, act: Callable[[], None]) -> _Spent:
    began, cpu, requests = time.monotonic(), cpu_seconds(pid, children=True), len(relay.requests)
    act()
    spent = cpu_seconds(pid, children=True) - cpu
    return _Spent(spent, time.monotonic() - began, len(relay.requests) - requests)


def _batch(lane: Lane, changes: int) -> None:
    """So many weight changes, each served before the next."""
    for _ in range(changes):
        change, reloads = lane.fleet.change("weight", lane.prefix), lane.one.reloads()
        change.send()
        wait_until(partial(_reloaded, lane, reloads), f"{lane.name} reloads", interval=0.01)
        assert change.shown(lane.one.configured(change.service)), f"{lane.name} reloaded for something else"
        time.sleep(_PAUSE)  # the proof is part of the change


def _reloaded(lane: Lane, before: int) -> bool:
    return lane.one.reloads() > before


# ---------------------------------------------------------------- what it came to


def report(services: int, rest: float, changes: int) -> Report:
    """Ratios to consul-template first, with the aims, then the figures."""
    rows = list(run(services, rest, changes))
    ours = [one for one in rows if one.name != PEER]
    peer = next((one for one in rows if one.name == PEER), None)
    text = f"""{services} services of {INSTANCES} instances, {rest:g} s of rest, then {BATCHES} batches of \
{changes // BATCHES} weight changes; the processor's time with that of ended children.

{table(("", "figure", "", "aim", "", "to consul-template"), (line for one in ours for line in _judged(one, peer)))}

{table(HEAD, map(_row, rows))}"""
    return Report(text, rows)


def _judged(one: Footprint, peer: Footprint | None) -> Iterator[tuple[object, ...]]:
    cost = statistics.median(one.per_change)
    theirs = statistics.median(peer.per_change) if peer else None
    figures: tuple[tuple[str, float, float, float | None], ...] = (
        ("RSS, MB", one.rss / _MB, RSS_AIM, peer.rss / _MB if peer else None),
        ("idle, % of a core", 100 * one.idle, IDLE_AIM, 100 * peer.idle if peer else None),
        ("CPU a change, ms", cost, theirs * CHANGE_AIM if theirs else math.nan, theirs),
    )
    for name, value, aim, other in figures:
        met = "" if math.isnan(aim) else "met" if value <= aim else "not met"
        yield one.name, name, value, f"{aim:.3g}", met, ratio(value, other) if other is not None else MISSING


def _row(one: Footprint) -> tuple[object, ...]:
    spent = spread(one.per_change, digits=0)
    used = (one.rss / _MB, one.peak / _MB, 100 * one.idle, spent)
    return one.name, *used, one.requests, one.requests_per_change, one.connections


SECTION = Section(
    "footprint",
    "memory, processor and requests, at rest and for a change, with many services",
    report,
    {
        "services": Option(1000, 1000, "how many"),
        # grayctl's long polls end after 53 s at most, consul-template's after 64 s; what has none is read every 300 s
        "rest": Option(320.0, 65.0, "seconds"),
        "changes": Option(50, 10, f"in {BATCHES} batches"),
    },
)
