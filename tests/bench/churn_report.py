"""What a churn run came to: the table, the picture, and what is wrong."""

import math
from functools import partial
from pathlib import Path

import msgspec

from tests.bench import churn
from tests.bench.growth import WARM_UP, Figure, figures
from tests.bench.section import Option, Report, Section, table

_SHORT = 600.0  # seconds


def run(minutes: float, every: float) -> Report:
    """Let it churn for so long, sampled every so many seconds; below ten minutes few generations are kept."""
    return judged(churn.run(minutes * 60, every, keep=5) if minutes * 60 < _SHORT else churn.run(minutes * 60, every))


def again(samples: Path) -> Report:
    """Judge the samples of an earlier run."""
    return judged(msgspec.convert(msgspec.json.decode(samples.read_bytes())["sections"]["churn"]["results"], churn.Run))


def judged(one: churn.Run) -> Report:
    """The report of a run. It failed when something grew, passed its bound or was left."""
    # what is on disk fills up at first, and only a long run can tell that from a leak
    found = figures(one.samples, one.keep, written=math.inf) if one.seconds < _SHORT else figures(one.samples, one.keep)
    minutes = f"{one.seconds / 60:g} minutes"
    rise = f"rise in {one.seconds * (1 - WARM_UP) / 60:.3g} minutes"
    title = f"{minutes} of churn: {churn.SERVICES} services of about {churn.INSTANCES} instances"
    last, seconds = one.final, one.samples[-1].at - one.samples[0].at
    text = f"""{title}

changed: {_counted(one.done)}
logged: {_counted(one.events)}

{table(("", "level", rise, "allowed", "peak", "bound", ""), map(_row, found))}

grayctl's CPU: {_share(one, "cpu", seconds)}, its children's: {_share(one, "cpu_children", seconds)}.
At rest: {last.children} children, {last.leaving} workers shutting down, {last.pending} journal files,
{last.leftovers} temporary files, {len(one.unused)} objects that no generation uses."""
    failed = [figure.name for figure in found if not figure.passed] + one.left
    return Report(text, one, failed, {"churn.svg": partial(_draw, one, title)})


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _row(one: Figure) -> tuple[object, ...]:
    name = f"{one.name}{f', {one.unit}' if one.unit else ''}"
    bound = "" if one.bound is None else f"{one.bound:g}"
    return name, one.level, one.rise, one.allowed, one.peak, bound, "" if one.passed else "FAILED"


def _share(one: churn.Run, field: str, seconds: float) -> str:
    return f"{100 * (getattr(one.samples[-1], field) - getattr(one.samples[0], field)) / seconds:.1f} %"


def _draw(one: churn.Run, title: str, path: Path) -> None:
    from tests.bench.plot import draw  # noqa: PLC0415 -- matplotlib is an extra

    draw(one.samples, path, title)


SECTION = Section(
    "churn",
    "what grayctl takes under constant churn, and whether it grows",
    run,
    {"minutes": Option(30.0, 1.5, "how long"), "every": Option(3.0, 1.0, "seconds between two samples")},
)
