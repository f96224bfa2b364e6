"""Medians and ratios of the rounds, as one object and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Rounds = Mapping[str, Sequence[Mapping[str, Any]]]
"""The figures of each round, by simulator."""


def summary(
    rounds: Rounds, ours: str, on_all_cores: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return the medians of each simulator, and its ratios to ours.

    Parameters
    ----------
    rounds : mapping
        Simulator to what its driver printed in each round.
    ours : str
        The simulator to compare with.
    on_all_cores : str, optional
        The same simulator on all cores, if it was measured too.

    Returns
    -------
    dict
        By simulator: ``version``, ``cpu_ms`` per update, the same of each round,
        ``updates_per_second``, ``losses`` before, after the warm-up and at the end; but for ours
        ``cpu_times_ours``, how many times as much CPU time an update takes,
        ``wall_times_ours``, how many times as long, and ``wall_times_ours_on_all_cores``.
    """
    medians = {name: _medians(figures) for name, figures in rounds.items()}
    base = medians[ours]
    for name, figures in medians.items():
        if name != ours:
            figures["cpu_times_ours"] = round(figures["cpu_ms"] / base["cpu_ms"], 2)
            wall = base["updates_per_second"] / figures["updates_per_second"]
            figures["wall_times_ours"] = round(wall, 2)
        if on_all_cores in medians and name not in (ours, on_all_cores):
            most = medians[on_all_cores]["updates_per_second"]
            figures["wall_times_ours_on_all_cores"] = round(most / figures["updates_per_second"], 2)
    return medians


def _medians(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def median(key: str) -> float:
        return float(statistics.median(one[key] for one in figures))

    return {
        "version": figures[0]["version"],
        "cpu_ms": round(median("cpu_ms"), 4),
        "cpu_ms_rounds": [round(one["cpu_ms"], 4) for one in figures],
        "updates_per_second": round(median("updates_per_second"), 1),
        "losses": [round(loss, 3) for loss in figures[0]["losses"]],
    }


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the whole result."""
    yield "| job | simulator | CPU ms per update | x ours | updates/s | x ours | x 2 seeds | loss |"
    yield "|---|---|---|---|---|---|---|---|"
    for job, result in results["jobs"].items():
        for name, figures in result["simulators"].items():
            yield f"| {job} | {name} {_cells(figures)} |"


def _cells(figures: Mapping[str, Any]) -> str:
    if "problem" in figures:
        return f"| {figures['problem']} | | | | |"
    cells = (
        f"{figures['cpu_ms']:.3g}",
        figures.get("cpu_times_ours", ""),
        f"{figures['updates_per_second']:.4g}",
        figures.get("wall_times_ours", ""),
        figures.get("wall_times_ours_on_all_cores", ""),
        f"{figures['losses'][0]} to {figures['losses'][1]}",
    )
    return f"{figures['version']} | " + " | ".join(map(str, cells))
