"""Time to accuracy of the recipes in settings drawn at random.

``python -m experiments.random_settings`` draws settings of data, devices and training, simulates
what is missing of every recipe in each, then writes ``docs/experiments/random-settings.md`` and
``.png``. An interrupted run goes on where it was. Fashion-MNIST is fetched first: ``make data``.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.common import (
    Results,
    Sections,
    finite,
    mean_accuracy,
    median_time,
    paired_points,
    parser_of,
    publish,
    spread,
    subplots,
)
from experiments.time_to_accuracy import CLEARLY, OURS, comparison, contenders, versus_others
from fl_protocol.codes import ConfigInvalid
from fl_sim.simulation.config import load_config
from fl_sim.simulation.result import SimulationResult
from fl_sim.simulation.sweep import simulate

_DRAWN_WITH = 1
_RUN = {"virtual_time": 20.0, "evaluate_every": 0.5, "first_seed": 50}
_SPEEDS = ("lognormal", "lognormal", "pareto", "uniform")
_SHARE = 0.95
"""The target, as a share of the most accurate other recipe's final accuracy."""
_CHOSEN_ON = 20
"""Settings, from the first, that defaults of Async-WA were chosen on."""

_INTRODUCTION = """\
# Time to accuracy in settings drawn at random

`make data && python -m experiments.random_settings --settings {settings} --seeds {seeds}`: the
regimes of [time to accuracy](time-to-accuracy.md) were chosen by hand, and Async-WA's defaults on
other seeds of most of them. Here data, devices and training are drawn. Two of Async-WA's defaults,
that its drift correction is fitted and what gain it begins with, were chosen on the first
{chosen_on} of these settings as well; on the others nothing was. Every recipe runs with its
defaults and, *tuned*, with the setting chosen for it there; Async-WA has its defaults. Settings
that leave a client without data are drawn anew.

Times are medians over the seeds, in median task durations, to {share:.0%} of the final accuracy of
the most accurate other recipe; a seed that never arrives counts as infinite. Clearly means
{clearly} times as soon; points are means over the seeds, in brackets the least and the most of the
settings.

![Times as soon, and points more](random-settings.png)

FedAvg has more devices at work than the others where few are: its rounds ask for 6 or 13 of them,
and whoever is late works on beside the next round.

"""

_BEST = """
### Against whichever of the others is best in a setting

The best of {others} results is favoured by luck as well: among them is who passes the target once
and falls behind it again.
"""


def main() -> None:
    """Draw, simulate, tabulate."""
    parser = parser_of(__doc__, "random-settings", seeds=3)
    parser.add_argument("--settings", type=int, default=40)
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    found: dict[str, Results] = {}
    for sections in settings():
        if len(found) == arguments.settings:
            break
        name = f"{len(found) + 1}: {describe(sections)}"
        try:
            found[name] = timed(_results(sections, arguments.results, arguments.seeds))
        except ConfigInvalid as refusal:
            print(name, "is drawn anew:", refusal, flush=True)
            continue
        against = versus_others(found[name])
        print(name, f"{against.ratio:.2f} times as soon", spread(against.points), flush=True)
    introduction = _INTRODUCTION.format(
        settings=arguments.settings,
        seeds=arguments.seeds,
        share=_SHARE,
        clearly=CLEARLY,
        chosen_on=_CHOSEN_ON,
    )
    page = "\n".join(line for part in groups_of(found).items() for line in _group(*part))
    publish("random-settings", introduction + page, figure_of(found))


def groups_of(found: Mapping[str, Results]) -> dict[str, dict[str, Results]]:
    """Part the settings that nothing was chosen on from those that defaults were chosen on."""
    names = list(found)
    groups = {
        "Settings that nothing was chosen on": names[_CHOSEN_ON:],
        "Settings that defaults were chosen on": names[:_CHOSEN_ON],
    }
    return {title: {name: found[name] for name in part} for title, part in groups.items() if part}


def _group(title: str, found: Mapping[str, Results]) -> list[str]:
    best = _BEST.format(others=len(contenders()) - 1)
    table = comparison(found, "setting")
    return [f"## {title}", "", *recipes_of(found), best, *table, ""]


def settings() -> Iterator[Sections]:
    """Draw sections of a configuration, for ever the same."""
    draw = random.Random(_DRAWN_WITH).choice
    while True:
        name = draw(("mnist-5k", "mnist-5k", "fashion-mnist-14x14", "watch"))
        data: dict[str, Any] = {"name": name, "partition": "natural"}
        devices: dict[str, Any] = {"clients": 20, "slow_hold_rare": False}
        if name != "watch":
            data |= {"partition": "dirichlet", "alpha": draw((0.1, 0.3, 1.0, 10.0))}
            devices = {"clients": draw((20, 50, 100)), "slow_hold_rare": draw((True, False))}
        devices |= {"in_flight": draw((0.1, 0.5, 1.0)), "speed": draw(_SPEEDS)}
        if devices["speed"] == "lognormal":
            devices["sigma"] = draw((0.5, 1.2, 2.0))
        devices |= {"death_rate": draw((0.0, 0.0, 0.3)), "dropout": draw((0.0, 0.0, 0.2))}
        train = {
            "model": draw(("mlp", "logistic")),
            "local_steps": draw((1, 5, 20)),
            "batch_size": draw((8, 32)),
            "lr": draw((0.01, 0.05, 0.2)),
        }
        yield {"data": data, "devices": devices, "train": train, "run": _RUN}


def describe(sections: Sections) -> str:
    """Return what was drawn, in a line."""
    data, devices, train = (sections[name] for name in ("data", "devices", "train"))
    skew = f", alpha {data['alpha']:g}" if "alpha" in data else " by arm"
    spread_of = f" {devices['sigma']:g}" if "sigma" in devices else ""
    rare = ", slow hold rare" if devices["slow_hold_rare"] else ""
    losses = "".join(
        f", {devices[key]:.0%} {what}"
        for key, what in (("death_rate", "die"), ("dropout", "of tasks break off"))
        if devices[key]
    )
    return (
        f"{data['name']}{skew}; {devices['in_flight']:.0%} of {devices['clients']} at work, "
        f"{devices['speed']}{spread_of}{rare}{losses}; {train['model']}, "
        f"{train['local_steps']} x {train['batch_size']}, lr {train['lr']:g}"
    )


def _results(sections: Sections, folder: Path, seeds: int) -> Results:
    found = {}
    for label, (name, options) in contenders().items():
        strategy = {"name": name, "options": {name: options}}
        run = {**sections["run"], "seeds": seeds}
        config = load_config(None, {**sections, "strategy": strategy, "run": run})
        found[label] = simulate(config, results=folder / "runs.jsonl")
    return found


def timed(results: Results) -> Results:
    """Return results with the times to this setting's target."""
    target = _SHARE * max(mean_accuracy(result) for name, result in results.items() if name != OURS)

    def arrival(curve: list[tuple[float, float]]) -> float | None:
        return next((time for time, accuracy in curve if accuracy >= target), None)

    return {
        label: replace(
            result,
            runs=tuple(replace(run, time_to_target=arrival(run.accuracies)) for run in result.runs),
        )
        for label, result in results.items()
    }


def recipes_of(found: Mapping[str, Results]) -> Iterator[str]:
    """Tabulate ours against each other recipe, and how far each ends behind the most accurate."""
    yield (
        "| recipe | Async-WA is clearly sooner, about as soon, clearly later "
        "| points of Async-WA more | points behind the most accurate |"
    )
    yield "|---|---|---|---|"
    best = [max(map(mean_accuracy, results.values())) for results in found.values()]
    for label in contenders():
        own = [(results[OURS], results[label]) for results in found.values()]
        behind = [
            100 * (most - mean_accuracy(pair[1])) for most, pair in zip(best, own, strict=True)
        ]
        cells = "| | |"
        if label != OURS:
            more = [statistics.fmean(paired_points(*pair)) for pair in own]
            cells = f"| {_sooner(own)} | {spread(more)} |"
        yield f"| {label} {cells} {statistics.fmean(behind):.1f} |"


def _sooner(pairs: Sequence[tuple[SimulationResult, SimulationResult]]) -> str:
    times = [(median_time(ours), median_time(other)) for ours, other in pairs]
    sooner = sum(other >= CLEARLY * ours for ours, other in times if math.isfinite(ours))
    later = sum(ours >= CLEARLY * other for ours, other in times if math.isfinite(other))
    return f"{sooner}, {len(times) - sooner - later}, {later}"


def figure_of(found: Mapping[str, Results]) -> Figure:
    """Draw Async-WA against the others, setting by setting in the order of the gain."""
    figure, grid = subplots(1, 2)
    left, right = grid[0]
    groups = groups_of(found)
    width = 0.8 / len(groups)
    for number, (title, results) in enumerate(groups.items()):
        compared = [versus_others(each) for each in results.values()]
        shift = (number - (len(groups) - 1) / 2) * width
        places = [place + shift for place in range(len(compared))]
        style: dict[str, Any] = {"color": f"C{number}", "label": title.lower()}
        ratios = [finite(ratio) for ratio in sorted(each.ratio for each in compared)]
        left.bar(places, ratios, width, **style)
        points = sorted((statistics.fmean(each.points), each.points) for each in compared)
        means = [mean for mean, _ in points]
        below = [mean - min(seeds) for mean, seeds in points]
        above = [max(seeds) - mean for mean, seeds in points]
        right.errorbar(places, means, (below, above), fmt="o", markersize=4, capsize=2, **style)
    left.axhline(1, color="black", linewidth=0.8)
    left.axhline(CLEARLY, color="black", linewidth=0.8, linestyle=":")
    left.set(ylabel="times as soon as the soonest other", xlabel="settings, sorted")
    left.legend(fontsize="small")
    right.axhline(0, color="black", linewidth=0.8)
    right.set(ylabel="points more than the most accurate other", xlabel="settings, sorted")
    for axes in grid[0]:
        axes.set_xticks([])
        axes.grid(alpha=0.25, axis="y")
    return figure


if __name__ == "__main__":
    main()
