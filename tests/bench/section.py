"""What a section of the benchmark is; `sections.py` lists them."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Value = int | float | Sequence[int] | None


@dataclass(frozen=True, slots=True)
class Option:
    """An argument of a section, `--its-name`; its type is that of the value in the full form."""

    full: Value
    quick: Value
    help: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a section came to.

    Attributes:
        text: Markdown: tables with the ratios first, and what has to be said about them.
        results: everything that was measured, for the JSON file.
        failed: what is wrong whatever the time it took: not converged, beyond a bound. Makes the exit code 1.
        plots: name of an SVG -> what writes it to a path. It imports matplotlib itself, which may be missing.
    """

    text: str
    results: object
    failed: Sequence[str] = ()
    plots: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """One command of `python -m tests.bench`, and a part of the whole.

    Attributes:
        run: called with the value of each option, by name.
    """

    name: str
    help: str
    run: Callable[..., Report]
    options: Mapping[str, Option] = field(default_factory=dict)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a float is written with three digits that count."""
    lines = [head, *([_cell(value) for value in row] for row in rows)]
    first, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join((first, f"|{'---|' * len(head)}", *rest))


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(ours: float, theirs: float) -> str:
    """Ours to theirs, below 1 where ours is less."""
    return f"{ours / theirs:.2f}" if theirs else f"{ours:g} to 0"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and from where to where all are."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def quantile(samples: Sequence[float], share: float) -> float:
    """The sample below which this part of all lies."""
    return (
        statistics.median(samples)
        if share == 0.5
        else sorted(samples)[min(len(samples) - 1, int(share * len(samples)))]
    )
