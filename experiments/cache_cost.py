"""What a smaller cache of clients' last deltas costs in accuracy.

``python -m experiments.cache_cost`` simulates what is missing, then writes
``docs/experiments/cache-cost.md`` and ``.png``. An interrupted run goes on where it was; results
are found by configuration, so delete the results folder after a change to a recipe.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from matplotlib.figure import Figure

from experiments.common import HERE, paired_points, parser_of, publish, spread, subplots, table_row
from fl_sim.simulation.config import load_config
from fl_sim.simulation.result import SimulationResult
from fl_sim.simulation.sweep import simulate
from strategies.cached_rows import CacheKind
from strategies.drift import CachedDeltas

REGIMES = ("always-on", "limited")
RECIPES = ("async-wa", "ca2fl", "area")
KINDS: tuple[CacheKind, ...] = get_args(CacheKind)
Results = Mapping[CacheKind, SimulationResult]

_INTRODUCTION = """\
# The price of a smaller cache

`python -m experiments.cache_cost --seeds {seeds} --first-seed {first_seed}`: recipes that keep each
client's last delta (AREA: its last model) with every kind of cache, in two of the regimes of
[time to accuracy](time-to-accuracy.md); same devices, data and seeds. Bytes are memory per client
and parameter. The last two columns compare with float32, seed by seed, in points of accuracy: the
final difference (mean, smallest and largest), and the largest one at any evaluation of any seed.
The test set has 1,000 images, so a point is ten of them.

`cache = "sketch"` stands for 4 bits per value and one scale per group of 64;
`strategies/rounded_rows.py` says why. `disk` keeps float32 in files, so it trains the very models
of float32.

![Final accuracy by kind of cache](cache-cost.png)

A dot is the mean over the seeds, a bar reaches from the worst to the best.
"""

# A row's share of rounding up to whole groups vanishes.
_MANY = 1 << 20


def main() -> None:
    """Simulate and tabulate."""
    parser = parser_of(__doc__, "cache-cost", seeds=5)
    # Seed 4 leaves a client of always-on without data.
    parser.add_argument("--first-seed", type=int, default=5)
    arguments = parser.parse_args()
    run = {"first_seed": arguments.first_seed, "seeds": arguments.seeds}
    found = {
        regime: {recipe: _results(regime, recipe, arguments.results, run) for recipe in RECIPES}
        for regime in REGIMES
    }
    sections = [_INTRODUCTION.format(**run)]
    for regime, results in found.items():
        sections += [f"## {regime}", ""]
        for recipe, by_kind in results.items():
            sections += _table(recipe, by_kind)
    publish("cache-cost", "\n".join(sections), figure_of(found))


def _results(regime: str, recipe: str, folder: Path, run: dict[str, int]) -> Results:
    found: dict[CacheKind, SimulationResult] = {}
    for kind in KINDS:
        strategy = {"name": recipe, "options": {recipe: {"cache": kind}}}
        config = load_config(
            HERE / "regimes" / f"{regime}.toml", {"strategy": strategy, "run": run}
        )
        found[kind] = simulate(config, results=folder / f"{regime}.jsonl")
        print(regime, recipe, kind, found[kind].summary()["final_accuracy"], flush=True)
    return found


def _table(recipe: str, results: Results) -> list[str]:
    lines = [
        f"### {recipe}",
        "",
        "| cache | final accuracy | time to target | arrived | bytes | difference | largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, result in results.items():
        against = _against(result, results["float32"])
        lines.append(f"{table_row(kind, result)} {_bytes(kind):.2f} | {against}")
    return [*lines, ""]


def _bytes(kind: CacheKind) -> float:
    if kind == "disk":
        return 0.0
    dtype, shape = CachedDeltas(kind=kind).cache(_MANY, None).rows.form
    return dtype.itemsize * math.prod(shape) / _MANY


def _against(result: SimulationResult, exact: SimulationResult) -> str:
    if result is exact:
        return "| |"
    pairs = list(zip(result.runs, exact.runs, strict=True))
    if all(one.digest == other.digest for one, other in pairs):
        return "the same models | |"
    largest = max(
        100 * abs(point[1] - reference[1])
        for one, other in pairs
        for point, reference in zip(one.accuracies, other.accuracies, strict=True)
    )
    return f"{spread(paired_points(result, exact))} | {largest:.1f} |"


def figure_of(found: Mapping[str, Mapping[str, Results]]) -> Figure:
    """Draw final accuracies, by regime, recipe and kind of cache."""
    figure, grid = subplots(1, len(found))
    for axes, (regime, results) in zip(grid[0], found.items(), strict=True):
        for shift, (recipe, by_kind) in enumerate(results.items()):
            runs = [[run.final_accuracy for run in result.runs] for result in by_kind.values()]
            means = [statistics.fmean(each) for each in runs]
            ends = list(zip(means, runs, strict=True))
            below = [mean - min(each) for mean, each in ends]
            above = [max(each) - mean for mean, each in ends]
            places = [place + 0.12 * (shift - 1) for place in range(len(by_kind))]
            axes.errorbar(places, means, (below, above), fmt="o", capsize=3, label=recipe)
        labels = [f"{kind}\n{_bytes(kind):.2f} bytes" for kind in KINDS]
        axes.set_xticks(range(len(KINDS)), labels)
        axes.set(title=regime, ylabel="final accuracy", ylim=(0, 1))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="lower left")
    return figure


if __name__ == "__main__":
    main()
