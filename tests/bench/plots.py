"""Curves over the number of services, as one small SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

Curves = Mapping[str, Sequence[float]]


def lines(path: Path, title: str, services: Sequence[int], panels: Mapping[str, Curves]) -> None:
    """Draw a panel for each entry: milliseconds over services, both logarithmic; a curve for each contender."""
    mpl.rcParams["svg.fonttype"] = "none"  # text as text: small, and searchable
    mpl.rcParams["svg.hashsalt"] = "grayctl"  # the same run gives the same file
    figure = Figure(figsize=(2.9 * len(panels) + 1.8, 3.2), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, curves) in zip(every, panels.items(), strict=True):
        for label, values in curves.items():
            axes.plot(services, values, marker="o", markersize=3, linewidth=1, label=label.replace("`", ""))
        axes.set(xscale="log", yscale="log", xlabel="services", title=name)
        axes.set_xticks(services, [f"{one:,}" for one in services])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    every[0].set_ylabel("ms")
    every[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, metadata={"Date": None})
