"""Time to accuracy of the recipes over the regimes in ``experiments/regimes/``.

``python -m experiments.time_to_accuracy`` simulates what is missing, then writes
``docs/experiments/time-to-accuracy.md`` and ``.png``. An interrupted run goes on where it was;
``--only REGIME`` simulates that regime and writes nothing, to divide the work.
The regime fashion needs its data first: ``make data``. The recipes' settings are those that
``experiments.tuning`` chose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.common import (
    DOCS,
    HERE,
    Results,
    mean_accuracy,
    mean_curve,
    median_time,
    paired_points,
    parser_of,
    spread,
    table_row,
)
from experiments.tuning import REGIMES, Options, rivals
from fl_sim.simulation.config import load_config
from fl_sim.simulation.result import SimulationResult
from fl_sim.simulation.sweep import simulate
from strategies.recipes.async_wa import AsyncWA

OURS = AsyncWA.name
_TUNED = ", tuned"
CLEARLY = 1.15
"""How many times sooner counts as clearly sooner."""


def main() -> None:
    """Simulate, tabulate, draw."""
    parser = parser_of(__doc__, "time-to-accuracy", seeds=5)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    regimes = {
        path.stem: _regime(path, arguments.results, arguments.seeds)
        for path in sorted(HERE.glob("regimes/*.toml"))
        if arguments.only is None or path.stem in arguments.only
    }
    if arguments.only is not None:
        return
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / "time-to-accuracy.md").write_text(_page(regimes, arguments.seeds), encoding="utf-8")
    _draw(_among(regimes, _tuned()), DOCS / "time-to-accuracy.png")


def _regime(path: Path, results: Path, seeds: int) -> Results:
    found = {}
    for label, (name, options) in contenders().items():
        strategy = {"name": name, "options": {name: options}}
        config = load_config(path, {"strategy": strategy, "run": {"seeds": seeds}})
        found[label] = simulate(config, results=results / f"{path.stem}.jsonl")
        print(path.stem, label, found[label].summary()["final_accuracy"], flush=True)
    return found


def contenders() -> dict[str, tuple[str, Options]]:
    """Return recipe and options by label: all with their defaults and as tuned, and ours."""
    defaults = {name: (name, {}) for name in rivals()}
    return {**defaults, **_tuned(), OURS: (OURS, {})}


def _tuned() -> dict[str, tuple[str, Options]]:
    """Return the settings chosen, by a label that tells where they are not the defaults."""
    chosen = rivals().items()
    return {name + _TUNED * bool(options): (name, options) for name, options in chosen}


def _page(regimes: Mapping[str, Results], seeds: int) -> str:
    lines = [
        "# Time to accuracy of the recipes",
        "",
        f"`make data && python -m experiments.time_to_accuracy --seeds {seeds}`: lognormal speeds,",
        "and, where classes are rare, the slowest devices hold most of them unless said otherwise.",
        "One configuration per regime, in `experiments/regimes/`, the same for every recipe. Times",
        "are medians over the seeds, in median task durations, to the regime's target accuracy, a",
        "level that several recipes reach; a seed that never arrives counts as infinite.",
        "",
        "Every recipe runs with its defaults, and all but Async-WA once more with the best of some",
        f"settings in the regimes {', '.join(REGIMES)}, *tuned*",
        "(`python -m experiments.tuning`). The seeds here are others than those that the settings",
        "and Async-WA's defaults were chosen on. The curves are those of the tuned.",
        "",
        *_settings(),
        "",
        "![Learning curves](time-to-accuracy.png)",
        "",
        "## Async-WA against the others with their defaults",
        "",
        *comparison(_among(regimes, rivals())),
        "",
        "## Async-WA against the others, tuned",
        "",
        *comparison(_among(regimes, _tuned())),
        "",
        "## Async-WA against the others, whichever of both is better in a regime",
        "",
        *comparison(regimes),
    ]
    for regime, results in regimes.items():
        lines += ["", f"## {regime}", "", *_description(regime), ""]
        lines += ["| recipe | final accuracy | time to target | arrived |", "|---|---|---|---|"]
        lines += [table_row(name, result) for name, result in results.items()]
    return "\n".join([*lines, ""])


def _settings() -> list[str]:
    lines = ["| recipe | setting, where not the default |", "|---|---|"]
    for name, options in rivals().items():
        given = ", ".join(f"`{key} = {value}`" for key, value in options.items())
        lines.append(f"| {name} | {given or 'all defaults'} |")
    return lines


def _among(regimes: Mapping[str, Results], labels: Iterable[str]) -> dict[str, Results]:
    """Return ours beside those with these labels."""
    wanted = (*labels, OURS)
    return {
        regime: {label: results[label] for label in wanted} for regime, results in regimes.items()
    }


@dataclass(frozen=True)
class Versus:
    """Ours against the soonest and against the most accurate of the others.

    Attributes
    ----------
    soonest, best : SimulationResult
        Of these.
    ratio : float
        How many times as soon as the soonest ours is at the target.
    points : list of float
        How much more accurate than the best ours ends, seed by seed.
    """

    soonest: SimulationResult
    best: SimulationResult
    ratio: float
    points: list[float]


def versus_others(results: Results) -> Versus:
    """Compare ours with all others."""
    ours = results[OURS]
    others = [result for name, result in results.items() if name != OURS]
    soonest = min(others, key=lambda other: (median_time(other), -mean_accuracy(other)))
    best = max(others, key=mean_accuracy)
    ratio = median_time(soonest) / median_time(ours)
    return Versus(soonest, best, ratio, paired_points(ours, best))


def comparison(regimes: Mapping[str, Results], regime: str = "regime") -> list[str]:
    """Tabulate ours against the soonest and the most accurate of the others, by regime."""
    lines = [
        f"| {regime} | soonest of the others | Async-WA is there | seeds sooner, equal, later "
        "| most accurate of the others | points of Async-WA more (worst to best seed) |",
        "|---|---|---|---|---|---|",
    ]
    compared = {regime: versus_others(results) for regime, results in regimes.items()}
    for name, each in compared.items():
        seeds = _seeds(regimes[name][OURS], each.soonest)
        lines.append(
            f"| {name} | {each.soonest.strategy} | {_times(each.ratio)} | {seeds} "
            f"| {each.best.strategy} | {spread(each.points)} |"
        )
    sooner = sum(each.ratio >= CLEARLY for each in compared.values())
    later = sum(each.ratio <= 1 / CLEARLY for each in compared.values())
    return [
        *lines,
        "",
        f"At least {CLEARLY} times as soon as every other recipe: {sooner} of {len(regimes)} "
        f"{regime}s; another at least {CLEARLY} times as soon: {later}.",
    ]


def _seeds(ours: SimulationResult, other: SimulationResult) -> str:
    """Count the seeds in which ours arrives sooner, at the same evaluation, and later."""
    pairs = [
        tuple(math.inf if run.time_to_target is None else run.time_to_target for run in runs)
        for runs in zip(ours.runs, other.runs, strict=True)
    ]
    counts = sum(a < b for a, b in pairs), sum(a == b for a, b in pairs)
    return f"{counts[0]}, {counts[1]}, {len(pairs) - sum(counts)}"


def _times(ratio: float) -> str:
    if math.isnan(ratio):
        return "neither arrives"
    return "the only one" if math.isinf(ratio) else f"{ratio:.2f} times as soon"


def _description(regime: str) -> list[str]:
    lines = (HERE / "regimes" / f"{regime}.toml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("#")]


def _draw(regimes: Mapping[str, Results], path: Path) -> None:
    columns = 2
    rows = math.ceil(len(regimes) / columns)
    figure = Figure(figsize=(10, 3.2 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (regime, results) in zip(grid.flat, regimes.items(), strict=False):
        axes.set_prop_cycle(color=colormaps["tab20"].colors)
        for name, result in results.items():
            times, means = mean_curve([run.accuracies for run in result.runs])
            style = {"color": "black", "linewidth": 2.2} if name == OURS else {"alpha": 0.7}
            axes.plot(times, means, label=name, **style)
        axes.set(title=regime, xlabel="virtual time", ylabel="accuracy", ylim=(0, 1))
        axes.grid(alpha=0.25)
    for axes in grid.flat[len(regimes) :]:
        axes.axis("off")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(path)


if __name__ == "__main__":
    main()
