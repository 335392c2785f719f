"""From the start of the tool's process to the first right answer, beside consul-template and the floor."""

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import msgspec

from tests.bench.contenders import FLOOR, LABELS, MISSING, OURS, PEERS, make, present
from tests.bench.fleet import CHANGING, INSTANCES, Fleet
from tests.bench.machines import Stage, stage
from tests.bench.section import Option, Report, Section, spread, table

SIZES = (1, 10, 100, 1000)
_OTHERS = 300  # connections of everything else on the agent
_A_MINUTE = 3  # rounds at 1,000 services; all five would be more connections than a process may often have files
_QUIET = 0.5


class Row(msgspec.Struct, frozen=True):
    """One size: contender -> milliseconds, one for each round."""

    services: int
    samples: dict[str, list[float]]


def run(services: Sequence[int], rounds: int) -> Iterator[Row]:
    """Start each contender once in each round, one at a time, each time with an nginx and a state that are new."""
    for size in services:
        # the agent keeps an abandoned long poll's slot until its wait ends, a minute later: room for those of a minute
        with stage(limits={"http_max_conns_per_client": 5 * min(rounds, _A_MINUTE) * size + _OTHERS}) as here:
            # all have the same services: but for the floor, which can wait for one alone
            numbers = count()
            fleet, floor = (Fleet(name, size, here, numbers, some) for name, some in (("all", CHANGING), (FLOOR, 1)))
            fleet.register()
            floor.register()
            samples: dict[str, list[float]] = {name: [] for name in present()}
            for number in range(rounds):
                for name in samples if number % 2 else reversed(samples):
                    time.sleep(_QUIET)
                    samples[name].append(_start(name, number, here, floor if name == FLOOR else fleet))
            yield Row(size, samples)


def _start(name: str, number: int, here: Stage, fleet: Fleet) -> float:
    lane = make(name, here.folder / f"{name}-{number}", here, fleet)
    try:
        lane.one.prepare()
        time.sleep(_QUIET)
        began = time.perf_counter()
        lane.one.launch()
        lane.wait_served()
        return (time.perf_counter() - began) * 1000
    finally:
        lane.one.close()


def report(services: Sequence[int], rounds: int) -> Report:
    """Ratios first, then milliseconds."""
    rows = list(run(services, rounds))
    heads = ("services", *(f"to {LABELS[name]}" for name in PEERS))
    ratios = table(heads, ((one.services, *(_ratio(one, name) for name in PEERS)) for one in rows))
    times = table(
        ("services", *LABELS.values()), ((one.services, *(_time(one, name) for name in LABELS)) for one in rows)
    )
    text = f"""{rounds} starts each. grayctl to the others, medians over the rounds (range); below 1 grayctl is faster:

{ratios}

Milliseconds, median (range):

{times}"""
    return Report(text, rows, plots={"bench-start.svg": partial(_draw, rows)})


def _draw(rows: Sequence[Row], path: Path) -> None:
    from tests.bench.plots import lines  # noqa: PLC0415 -- matplotlib is an extra

    curves = {LABELS[name]: [statistics.median(one.samples[name]) for one in rows] for name in rows[0].samples}
    lines(path, "start to served, median", [one.services for one in rows], {"": curves})


def _ratio(row: Row, peer: str) -> str:
    if peer not in row.samples:
        return MISSING
    return spread([ours / theirs for ours, theirs in zip(row.samples[OURS], row.samples[peer], strict=True)])


def _time(row: Row, name: str) -> str:
    return spread(row.samples[name], digits=0) if name in row.samples else MISSING


SECTION = Section(
    "start",
    f"from the start of the process to served, {INSTANCES} instances a service",
    report,
    {"services": Option(SIZES, SIZES, "the sizes"), "rounds": Option(5, 2, "repeats")},
)
