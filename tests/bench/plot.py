"""A churn run as one SVG with a common time axis."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.bench.resources import Sample

_MIB = 1024 * 1024
_MOST_POINTS = 200
_Get = Callable[[Sample], float]
_PANELS: tuple[tuple[str, dict[str, _Get]], ...] = (
    (
        "MiB",
        {
            "grayctl RSS": lambda one: one.rss / _MIB,
            "anonymous": lambda one: one.anonymous / _MIB,
            "nginx master RSS": lambda one: one.nginx_rss / _MIB,
        },
    ),
    (
        "count",
        {
            "descriptors": lambda one: one.descriptors,
            "connections to Consul": lambda one: one.connections,
            "threads": lambda one: one.threads,
            "children": lambda one: one.children,
            "lines of /metrics": lambda one: one.series,
        },
    ),
    (
        "on disk",
        {
            "objects": lambda one: one.objects,
            "generations": lambda one: one.generations,
            "snippet sets": lambda one: one.snippet_sets,
            "journal files": lambda one: one.pending,
        },
    ),
    ("KiB", {"state directory": lambda one: one.state_bytes / 1024}),
    ("nginx", {"workers": lambda one: one.workers, "shutting down": lambda one: one.leaving}),
    ("so far", {"proven reloads": lambda one: one.reloads, "log, KiB": lambda one: one.logged / 1024}),
)


def draw(samples: Sequence[Sample], path: Path, title: str) -> None:
    """Write the curves of a run as SVG; every n-th sample where there are many."""
    mpl.rcParams["svg.fonttype"] = "none"  # text as text: small, and searchable
    mpl.rcParams["svg.hashsalt"] = "grayctl"  # the same run gives the same file
    shown = samples[:: max(1, len(samples) // _MOST_POINTS)]
    minutes = [one.at / 60 for one in shown]
    figure = Figure(figsize=(9, 11), layout="constrained")
    panels = figure.subplots(len(_PANELS) + 1, 1, sharex=True)
    for axes, (unit, curves) in zip(panels, _PANELS, strict=False):
        for label, get in curves.items():
            axes.plot(minutes, [get(one) for one in shown], label=label, linewidth=0.9)
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
    for label, field in (("grayctl", "cpu"), ("its children", "cpu_children")):
        panels[-1].plot(minutes[1:], _percent(shown, field), label=label, linewidth=0.9)
    panels[-1].set_ylabel("% of a CPU")
    panels[-1].set_ylim(bottom=0)
    panels[-1].set_xlabel("minutes")
    for axes in panels:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, metadata={"Date": None})


def _percent(samples: Sequence[Sample], field: str) -> list[float]:
    return [
        100 * (getattr(later, field) - getattr(earlier, field)) / (later.at - earlier.at)
        for earlier, later in pairwise(samples)
    ]
