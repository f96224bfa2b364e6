"""Time to accuracy and fairness of the selection policies while few clients work at a time.

``python -m experiments.dispatch`` simulates what is missing, regime by regime from
``experiments/dispatch-regimes/``, then writes ``docs/experiments/dispatch.md`` and ``.png``. An
interrupted run goes on where it was.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.common import (
    DOCS,
    HERE,
    mean_curve,
    median_time,
    outcome_cells,
    paired_points,
    parser_of,
)
from fl_sim.simulation.config import load_config
from fl_sim.simulation.result import SimulationResult
from fl_sim.simulation.sweep import simulate

POLICIES: dict[str, dict[str, Any]] = {
    "uniform": {"policy": "uniform"},
    "load-aware": {"policy": "load-aware"},
    "speed": {"policy": "speed"},
    "speed^0.5": {"policy": "speed", "options": {"speed": {"exponent": 0.5}}},
    "auction": {"policy": "auction"},
}
OTHERS = tuple(POLICIES)[1:]
RECIPES = ("async-wa", "fedbuff")
Results = Mapping[str, Mapping[str, SimulationResult]]
"""By recipe, then by policy."""

_INTRO = """\
# Time to accuracy and fairness of the selection policies

`python -m experiments.dispatch --seeds {seeds}`: MNIST-5k on 100 devices of lognormal speeds, of
which few train at a time, as `experiments/dispatch-regimes/` says. The policies are those of
[`docs/dispatch.md`](../dispatch.md), with their default options; `speed^0.5` is `speed` with the
exponent 0.5. Times are medians over the seeds, in median task durations, to the regime's target
accuracy. Updates are means over the seeds; fairness is Jain's index of the clients' accepted
updates. The sentences below each table compare with the uniform draw, seed by seed. Why policies
differ is explained on their page.

![Learning curves](dispatch.png)
"""


def main() -> None:
    """Simulate, tabulate, draw."""
    arguments = parser_of(__doc__, "dispatch", seeds=5).parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    regimes = {
        path.stem: _regime(path, arguments.results / f"{path.stem}.jsonl", arguments.seeds)
        for path in sorted(HERE.glob("dispatch-regimes/*.toml"))
    }
    DOCS.mkdir(parents=True, exist_ok=True)
    page = "\n".join(_page(regimes, arguments.seeds))
    (DOCS / "dispatch.md").write_text(page, encoding="utf-8")
    _draw(regimes, DOCS / "dispatch.png")


def _regime(path: Path, results: Path, seeds: int) -> Results:
    found: dict[str, dict[str, SimulationResult]] = {recipe: {} for recipe in RECIPES}
    for recipe in RECIPES:
        for policy, section in POLICIES.items():
            sections = {"strategy": {"name": recipe}, "dispatch": section, "run": {"seeds": seeds}}
            config = load_config(path, sections)
            found[recipe][policy] = simulate(config, results=results)
            accuracy = found[recipe][policy].summary()["final_accuracy"]
            print(path.stem, recipe, policy, accuracy, flush=True)
    return found


def _page(regimes: Mapping[str, Results], seeds: int) -> Iterator[str]:
    yield _INTRO.format(seeds=seeds)
    yield from ("## Against the uniform draw, in every seed", "")
    yield f"- Less accurate at the end: {_always(regimes, -1)}."
    yield f"- More accurate at the end: {_always(regimes, 1)}."
    yield ""
    for regime, results in regimes.items():
        yield from (f"## {regime}", "")
        yield "| recipe | policy | final accuracy | time to target | arrived | updates | fairness |"
        yield "|---|---|---|---|---|---|---|"
        for recipe, by_policy in results.items():
            for policy, result in by_policy.items():
                yield _row(recipe, policy, result)
        yield ""
        for recipe, by_policy in results.items():
            for policy in OTHERS:
                change = _change(by_policy[policy], by_policy["uniform"])
                yield f"- {recipe}, {policy}: {change}."
        yield ""


def _row(recipe: str, policy: str, result: SimulationResult) -> str:
    summary = result.summary()
    updates = summary["updates"] // len(result.runs)
    fairness = summary["fairness"]["mean"]
    cells = " | ".join(outcome_cells(result))
    return f"| {recipe} | {policy} | {cells} | {updates} | {fairness:.2f} |"


def _change(result: SimulationResult, uniform: SimulationResult) -> str:
    points = paired_points(result, uniform)
    text = f"{statistics.fmean(points):+.1f} points (from {min(points):+.1f} to {max(points):+.1f})"
    times = median_time(uniform), median_time(result)
    if all(map(math.isfinite, times)):
        return f"{text}, at the target {times[0] / times[1]:.2f} times as soon"
    return f"{text}, no longer at the target in most seeds" if math.isfinite(times[0]) else text


def _always(regimes: Mapping[str, Results], sign: int) -> str:
    """Name what beats (1) or is beaten by (-1) the uniform draw in every seed."""
    found = [
        f"{policy} with {recipe} in {regime}"
        for policy in OTHERS
        for regime, results in regimes.items()
        for recipe, by_policy in results.items()
        if all(sign * d > 0 for d in paired_points(by_policy[policy], by_policy["uniform"]))
    ]
    return "; ".join(found) or "none"


def _draw(regimes: Mapping[str, Results], path: Path) -> None:
    size = (4.2 * len(regimes), 3.4 * len(RECIPES))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(RECIPES), len(regimes), squeeze=False, sharey=True)
    for column, (regime, results) in enumerate(regimes.items()):
        for axes, (recipe, by_policy) in zip(grid[:, column], results.items(), strict=True):
            for policy, result in by_policy.items():
                fairness = result.summary()["fairness"]["mean"]
                times, means = mean_curve([run.accuracies for run in result.runs])
                style = {"color": "black", "linestyle": "--"} if policy == "uniform" else {}
                axes.plot(times, means, label=f"{policy}, fairness {fairness:.2f}", **style)
            axes.set(title=f"{recipe}: {regime}", xlabel="virtual time", ylim=(0, 1))
            axes.grid(alpha=0.25)
            axes.legend(fontsize="small", loc="lower right", frameon=False)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy")
    figure.savefig(path)


if __name__ == "__main__":
    main()
