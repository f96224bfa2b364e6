"""What the experiments share: running cases, cells of tables, curves, a page with its plot."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fl_sim.simulation.config import load_config
from fl_sim.simulation.result import SimulationResult
from fl_sim.simulation.sweep import simulate

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "experiments"
Results = Mapping[str, SimulationResult]
Sections = Mapping[str, dict[str, Any]]
"""Sections of a configuration that a case changes."""


def parser_of(about: str | None, results: str, seeds: int) -> argparse.ArgumentParser:
    """Return a parser of the options that experiments have in common.

    ``--seeds`` says how many, ``--results`` where in ``runs/`` what was simulated is found again: a
    file, or a folder with one per regime.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--results", type=Path, default=Path("runs") / results)
    return parser


def simulate_cases(
    config: Path, cases: Mapping[str, Sections], results: Path, seeds: int
) -> dict[str, SimulationResult]:
    """Simulate each case of a configuration; what the results file holds is not done again."""
    found = {}
    for name, sections in cases.items():
        run = {**sections.get("run", {}), "seeds": seeds}
        found[name] = simulate(load_config(config, {**sections, "run": run}), results=results)
        print(config.stem, name, found[name].summary()["final_accuracy"], flush=True)
    return found


def publish(name: str, page: str, figure: Figure) -> None:
    """Write a page and its plot to ``docs/experiments/``."""
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / f"{name}.md").write_text(page, encoding="utf-8")
    figure.savefig(DOCS / f"{name}.png")


def subplots(rows: int, columns: int, **options: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes, shape (rows, columns)."""
    size = (4.8 * columns, 3.5 * rows)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def table_row(name: str, result: SimulationResult) -> str:
    """Return name, final accuracy, median time to target and seeds that arrived as a table row."""
    return f"| {name} | {' | '.join(outcome_cells(result))} |"


def outcome_cells(result: SimulationResult) -> tuple[str, str, str]:
    """Return final accuracy, time to target, and how many seeds arrived, for a table."""
    summary = result.summary()
    accuracy, time = summary["final_accuracy"], summary["time_to_target"]
    median = "never" if time["median"] is None else f"{time['median']:.1f}"
    arrived = f"{time['reached']} of {len(result.runs)}"
    return f"{accuracy['mean']:.3f} ± {accuracy['std']:.3f}", median, arrived


def median_time(result: SimulationResult) -> float:
    """Return the median time to the target; infinite if most seeds never arrive."""
    times = [run.time_to_target for run in result.runs]
    return statistics.median(math.inf if time is None else time for time in times)


def finite(value: float) -> float:
    """Return what a plot shows of a value: a gap for an infinite one."""
    return value if math.isfinite(value) else math.nan


def mean_accuracy(result: SimulationResult) -> float:
    """Return the mean final accuracy."""
    return statistics.fmean(run.final_accuracy for run in result.runs)


def paired_points(result: SimulationResult, other: SimulationResult) -> list[float]:
    """Return how much more accurate `result` ends than `other`, seed by seed, in points."""
    return [
        100 * (mine.final_accuracy - theirs.final_accuracy)
        for mine, theirs in zip(result.runs, other.runs, strict=True)
    ]


def spread(values: Sequence[float]) -> str:
    """Return mean, least and largest of signed values."""
    return f"{statistics.fmean(values):+.1f} ({min(values):+.1f} to {max(values):+.1f})"


def mean_curve(
    curves: Sequence[Sequence[tuple[float, float]]],
) -> tuple[list[float], list[float]]:
    """Return times and mean accuracies of curves with common evaluation times."""
    shortest = min(map(len, curves))
    times = [point[0] for point in curves[0][:shortest]]
    means = [statistics.fmean(curve[i][1] for curve in curves) for i in range(shortest)]
    return times, means
