"""From a change in Consul to a worker of nginx that serves it, beside consul-template and the floor."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

import msgspec

from tests.bench.contenders import CHECKED, FLOOR, LABELS, MISSING, OURS, PEERS, Lane, lanes
from tests.bench.fleet import INSTANCES, KINDS
from tests.bench.floor import Floor
from tests.bench.machines import stage
from tests.bench.section import Option, Report, Section, quantile, spread, table

SIZES = (1, 10, 100, 1000)
AIMS = {1: 0.95, 10: 0.95, 100: 0.75, 1000: 0.7}  # to consul-template with `nginx -t`, p50 and p95
FLOOR_AIM = 1.3
_OTHERS = 300  # connections of everything else on the agent
_LIMIT = 20.0
_POLL = 0.0005
# nginx takes 16 connections in a row before the next worker has its turn, so whoever asks one by one waits for up to 32
# answers of the two old workers; connections that stand at the same time are taken by old and new ones alike
_AT_ONCE = 8

Rounds = list[list[float]]


class Row(msgspec.Struct, frozen=True):
    """One size.

    Attributes:
        rounds: contender -> kind of change -> for each round the milliseconds of its changes.
        reloads: of each contender's nginx, in all; one for each of `sent` changes is right.
    """

    services: int
    locations: int
    rounds: dict[str, dict[str, Rounds]]
    reloads: dict[str, int]
    sent: int

    def all(self, name: str, kind: str) -> list[float]:
        """The samples of all rounds."""
        return list(chain.from_iterable(self.rounds[name][kind]))


def run(
    services: Sequence[int], rounds: int, changes: int, at_most: int, *, locations: int, own_zones: int
) -> Iterator[Row]:
    """Measure each size: so many rounds, in each so many changes of each kind for each contender.

    Args:
        services: the sizes.
        rounds: the order of the contenders alternates from one to the next.
        changes: of each kind, in a round.
        at_most: the changes of each kind in a round above 100 services, where all takes longer.
        locations: in nginx, for so many services; 0: for those that change.
        own_zones: 0: the peers' upstreams share one, as grayctl's do.
    """
    for size in services:
        # consul-template holds a connection for each service, three of them run, and so does grayctl here
        with stage(limits={"http_max_conns_per_client": 5 * size + _OTHERS}) as here, ExitStack() as stack:
            started = list(lanes(here, stack, size, locations, own_zones=bool(own_zones)))
            yield _measure(started, size, rounds, min(changes, at_most) if size > 100 else changes)


def _measure(started: list[Lane], size: int, rounds: int, changes: int) -> Row:
    samples: dict[str, dict[str, Rounds]] = {lane.name: {kind: [] for kind in KINDS} for lane in started}
    quiet = 0.4 + size / 1000  # each change meets an nginx at rest, whose old workers are gone
    time.sleep(2 + quiet)
    before = {lane.name: lane.one.reloads() for lane in started}
    for number in range(rounds):
        for kinds in samples.values():
            for found in kinds.values():
                found.append([])
        for _ in range(changes):
            for kind in KINDS:
                for lane in started if number % 2 else reversed(started):
                    lane.fleet.tidy()
                    time.sleep(quiet)
                    samples[lane.name][kind][-1].append(_change(lane, kind))
    time.sleep(quiet)
    reloads = {lane.name: lane.one.reloads() - before[lane.name] for lane in started}
    return Row(size, started[0].one.located, samples, reloads, rounds * changes * len(KINDS))


def _change(lane: Lane, kind: str) -> float:
    """Milliseconds from before the request to Consul to the first answer of a worker that was not there before."""
    one, change = lane.one, lane.fleet.change(kind, lane.prefix)
    if isinstance(one, Floor):
        one.foresee()
    old = one.nginx_workers()
    began = time.perf_counter()
    change.send()
    while one.ask(_AT_ONCE, "worker") <= old:
        if time.perf_counter() - began > _LIMIT:
            raise AssertionError(f"{one.name}: no new worker within {_LIMIT:g} s of {kind} in {change.service}")
        time.sleep(_POLL)
    seconds = time.perf_counter() - began
    assert change.shown(one.configured(change.service)), f"{one.name} reloaded for something else than {kind}"
    return seconds * 1000


# ---------------------------------------------------------------- what it came to


def report(
    services: Sequence[int], rounds: int, changes: int, at_most: int, *, locations: int, own_zones: int
) -> Report:
    """Ratios first, then milliseconds."""
    rows = list(run(services, rounds, changes, at_most, locations=locations, own_zones=own_zones))
    failed = [
        f"{name} reloaded {count} times for {one.sent} changes at {one.services} services"
        for one in rows
        for name, count in one.reloads.items()
        if name == OURS and count > one.sent
    ]
    text = f"""{rounds} rounds, {changes} changes of each kind in each ({min(changes, at_most)} above 100 services), \
{INSTANCES} instances a service.
CT is consul-template: as documented, with `nginx -t` before, and with `wait` besides.
grayctl to the others, medians over the rounds (range); p95 over all samples; below 1 grayctl is faster:

{ratios(rows)}

Milliseconds, p50 / p95 / p99 over all samples:

{times(rows)}"""
    return Report(text, rows, failed, {"bench-changes.svg": partial(_draw, rows)})


def ratios(rows: Sequence[Row]) -> str:
    """The headline."""
    head = ["services", "change", f"p50 to {LABELS[CHECKED]}", "p95", "aim", "", "p50 to the floor", f"aim {FLOOR_AIM}"]
    head += [f"p50 to {LABELS[name]}" for name in PEERS if name not in {CHECKED, FLOOR}]
    return table(head, (_ratios(row, kind) for row in rows for kind in KINDS))


def _ratios(row: Row, kind: str) -> list[object]:
    p50 = {name: over_rounds(row, name, kind) for name in PEERS if name in row.rounds}
    p95 = over_all(row, CHECKED, kind, 0.95) if CHECKED in row.rounds else None
    aim = AIMS.get(row.services)
    worse = None if p95 is None else max(statistics.median(p50[CHECKED]), p95)
    cells: list[object] = [row.services, kind, _spread(p50.get(CHECKED)), MISSING if p95 is None else p95]
    cells += ["" if aim is None else f"{aim:g}", _verdict(worse, aim)]
    cells += [spread(p50[FLOOR]), _verdict(statistics.median(p50[FLOOR]), FLOOR_AIM)]
    return cells + [_spread(p50.get(name)) for name in PEERS if name not in {CHECKED, FLOOR}]


def _verdict(found: float | None, aim: float | None) -> str:
    return "" if found is None or aim is None else "met" if found <= aim else "not met"


def over_rounds(row: Row, peer: str, kind: str, share: float = 0.5) -> list[float]:
    """Ours to a peer's, in each round, at a quantile of the round."""
    pairs = zip(row.rounds[OURS][kind], row.rounds[peer][kind], strict=True)
    return [quantile(ours, share) / quantile(theirs, share) for ours, theirs in pairs]


def over_all(row: Row, peer: str, kind: str, share: float) -> float:
    """Ours to a peer's, at a quantile of all samples."""
    return quantile(row.all(OURS, kind), share) / quantile(row.all(peer, kind), share)


def _spread(values: list[float] | None) -> str:
    return MISSING if values is None else spread(values)


def times(rows: Sequence[Row]) -> str:
    """p50, p95 and p99 of everybody."""
    return table(("services", "change", *LABELS.values()), (_times(row, kind) for row in rows for kind in KINDS))


def _times(row: Row, kind: str) -> list[object]:
    cells: list[object] = [row.services, kind]
    for name in LABELS:
        found = row.all(name, kind) if name in row.rounds else []
        cells.append(" / ".join(f"{quantile(found, share):.1f}" for share in (0.5, 0.95, 0.99)) if found else MISSING)
    return cells


def _draw(rows: Sequence[Row], path: Path) -> None:
    from tests.bench.plots import lines  # noqa: PLC0415 -- matplotlib is an extra

    panels = {
        kind: {LABELS[name]: [statistics.median(one.all(name, kind)) for one in rows] for name in rows[0].rounds}
        for kind in KINDS
    }
    lines(path, "change to served, p50", [one.services for one in rows], panels)


SECTION = Section(
    "changes",
    f"from a change to served, {INSTANCES} instances a service, grayctl beside consul-template and the floor",
    report,
    {
        "services": Option(SIZES, SIZES, "the sizes"),
        "rounds": Option(5, 3, "repeats"),
        "changes": Option(10, 2, "of each kind, for each contender, in each round"),
        "at_most": Option(4, 1, "of them above 100 services"),
        "locations": Option(0, 0, "how many services have one; 0: those that change, at most ten"),
        "own_zones": Option(1, 1, "0: consul-template's upstreams share one zone, as grayctl's do"),
    },
)
