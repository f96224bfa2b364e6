"""Async-WA without one of its parts at a time.

``python -m experiments.ablation`` simulates what is missing, over the regimes of
``experiments/regimes/``, then writes ``docs/experiments/ablation.md`` and ``.png``. An interrupted
run goes on where it was. The regime fashion needs its data first: ``make data``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.common import (
    HERE,
    Results,
    mean_curve,
    outcome_cells,
    paired_points,
    parser_of,
    publish,
    simulate_cases,
    spread,
    subplots,
)
from experiments.tuning import score
from strategies.recipes.async_wa import AsyncWA

WHOLE = "whole"
VARIANTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "gain does not tune itself": {"self_tuning": False},
    "step not normalised": {"adaptive": False},
    "no drift correction": {"drift_correction": False},
    "correction not fitted": {"fitted_correction": False},
    "no published mean": {"published_rounds": 0.0},
    "innovations not discounted": {"staleness_exponent": 0.0},
    "volume does not count": {"volume_exponent": 0.0},
    "disjoint buffers": {"disjoint": True},
}
_COLUMNS = 2
_INTRODUCTION = """\
# Async-WA without one of its parts

`make data && python -m experiments.ablation --seeds {seeds}`: the regimes and seeds of
[time to accuracy](time-to-accuracy.md), Async-WA with its defaults and with one part left out.
Points are of final accuracy, against the whole, seed by seed: mean, smallest and largest. "Over the
run", and the table over all regimes, are mean accuracy over a whole run less that of the whole, in
points: it counts how soon and how far. Disjoint buffers of K are what confidential runs use; with
them the correction is not fitted and the gain does not tune itself.

![Learning curves](ablation.png)

"""


def main() -> None:
    """Simulate, tabulate, draw."""
    arguments = parser_of(__doc__, "ablation", seeds=5).parse_args()
    found = {
        path.stem: simulate_cases(
            path, cases(), arguments.results / f"{path.stem}.jsonl", arguments.seeds
        )
        for path in sorted(HERE.glob("regimes/*.toml"))
    }
    page = _INTRODUCTION.format(seeds=arguments.seeds) + "\n".join(table_of(found))
    publish("ablation", page, _drawn(found))


def cases() -> dict[str, dict[str, Any]]:
    """Return the sections of a configuration that make up each variant."""
    name = AsyncWA.name
    return {
        label: {"strategy": {"name": name, "options": {name: options}}}
        for label, options in VARIANTS.items()
    }


def table_of(found: Mapping[str, Results]) -> Iterator[str]:
    """Yield what each variant loses over all regimes, then a table per regime."""
    yield "| without | mean over the regimes | worst regime | best regime |"
    yield "|---|---|---|---|"
    for label in VARIANTS:
        if label != WHOLE:
            lost = {name: over_run(results, label) for name, results in found.items()}
            worst, best = min(lost, key=lost.__getitem__), max(lost, key=lost.__getitem__)
            yield (
                f"| {label} | {statistics.fmean(lost.values()):+.1f} "
                f"| {worst}, {lost[worst]:+.1f} | {best}, {lost[best]:+.1f} |"
            )
    for regime, results in found.items():
        yield from ("", f"## {regime}", "")
        yield "| Async-WA | final accuracy | time to target | arrived | points | over the run |"
        yield "|---|---|---|---|---|---|"
        for label, result in results.items():
            yield f"| {label} | {' | '.join(outcome_cells(result))} | {_against(results, label)} |"
    yield ""


def over_run(results: Results, label: str) -> float:
    """Return the mean accuracy over all evaluations less that of the whole, in points."""
    return 100 * (score(results[label]) - score(results[WHOLE]))


def _against(results: Results, label: str) -> str:
    if label == WHOLE:
        return "| "
    points = spread(paired_points(results[label], results[WHOLE]))
    return f"{points} | {over_run(results, label):+.1f}"


def _drawn(found: Mapping[str, Results]) -> Figure:
    figure, grid = subplots(-(-len(found) // _COLUMNS), _COLUMNS)
    for axes, (regime, results) in zip(grid.flat, found.items(), strict=False):
        for label, result in results.items():
            times, means = mean_curve([run.accuracies for run in result.runs])
            style = {"color": "black", "linewidth": 2.2} if label == WHOLE else {"alpha": 0.8}
            axes.plot(times, means, label=label, **style)
        axes.set(title=regime, xlabel="virtual time", ylabel="accuracy")
        axes.grid(alpha=0.25)
    for axes in grid.flat[len(found) :]:
        axes.axis("off")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    main()
