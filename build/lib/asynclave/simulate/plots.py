"""Accuracy over virtual time of every strategy of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fl_sim.simulation.result import SeedResult

_POINTS = 200


def draw(path: Path, runs: Sequence[SeedResult]) -> None:
    """Draw mean and range over seeds of each strategy into a PNG file."""
    figure = Figure(figsize=(8, 4.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for strategy in sorted({run.strategy for run in runs}):
        chosen = [run for run in runs if run.strategy == strategy]
        end = min(run.accuracies[-1][0] for run in chosen)
        times = np.linspace(0.0, end, _POINTS)
        tables = [np.asarray(run.accuracies) for run in chosen]
        curves = np.stack([np.interp(times, table[:, 0], table[:, 1]) for table in tables])
        (line,) = axes.plot(times, curves.mean(axis=0), label=f"{strategy} ({len(chosen)} seeds)")
        axes.fill_between(
            times, curves.min(axis=0), curves.max(axis=0), color=line.get_color(), alpha=0.15
        )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(xlabel="virtual time (median task durations)", ylabel="test accuracy", ylim=(0, 1))
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path)
