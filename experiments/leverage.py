"""Leverage of single updates: how well releases give them away, recipe by recipe.

``python -m experiments.leverage`` runs the engine on unit vectors (`experiments/observer.py`) and
writes ``docs/experiments/leverage.md`` and ``.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.common import publish, subplots
from experiments.observer import Aggregates, Observed, confidential_recipes, observe
from strategies.catalog import recipe_from
from strategies.guard import HORIZON
from strategies.leverage import Coefficients, worst_leverage
from strategies.release import ReleaseRule

FLEETS = ((20, 5), (60, 10))
_USUAL = 0.7
BOUNDS = (None, 0.9, _USUAL, 0.5)
_SMALL, _SHORT, _SPREADS, _LITTLE = ((10, 3), (12, 4), (14, 5)), 12, (0.0, 1.0, 2.0), 0.02
_CACHED: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "async-wa": ("async-wa", {"disjoint": True}),
    "async-wa, `staleness_exponent = 1`": (
        "async-wa",
        {"disjoint": True, "staleness_exponent": 1.0},
    ),
    "async-wa, `max_clients = 8`": ("async-wa", {"disjoint": True, "max_clients": 8}),
    "ca2fl": ("ca2fl", {}),
    "ca2fl, `max_age = 1`": ("ca2fl", {"max_age": 1.0}),
}


class Measured(NamedTuple):
    """Runs of a recipe under a bound, with the worst leverage found of each update of each run."""

    runs: list[Observed]
    worst: list[dict[tuple[str, int], float]]

    def stands_still(self, releases: int) -> bool:
        """Return whether a run ended before that many releases."""
        return any(len(run.sizes) < releases for run in self.runs)

    def sorted(self) -> list[float]:
        """Return the worst leverage of every update, in ascending order."""
        return sorted(value for found in self.worst for value in found.values())


Fleet = Mapping[tuple[str, float | None], Measured]
"""By recipe and bound."""


def main() -> None:
    """Measure, write the page, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    releases, seeds = arguments.releases, range(arguments.seeds)
    fleets = {(clients, k): _measured(clients, k, releases, seeds) for clients, k in FLEETS}
    text = _TEXT.format(
        releases=releases,
        seeds=arguments.seeds,
        horizon=HORIZON,
        usual=_USUAL,
        sections="\n".join(_section(*key, fleet, releases) for key, fleet in fleets.items()),
        understatement=_understatement(releases, seeds),
        small=", ".join(f"{clients} clients with k = {k}" for clients, k in _SMALL),
        spreads=", ".join(f"{spread:g}" for spread in _SPREADS[:-1]) + f" or {_SPREADS[-1]:g}",
        short=_SHORT,
        little=_LITTLE,
        missed=_missed(seeds),
    )
    publish("leverage", text, _drawn(fleets, releases))


def _measured(clients: int, k: int, releases: int, seeds: Sequence[int]) -> Fleet:
    fleet = {}
    for name, recipe in sorted(confidential_recipes(k).items()):
        for bound in BOUNDS:
            rule = ReleaseRule(k, max_leverage=bound)
            runs = [
                observe(Aggregates(recipe), clients, releases, rule=rule, seed=seed)
                for seed in seeds
            ]
            worst = [worst_leverage(run.releases(), k - 1) if run.sizes else {} for run in runs]
            fleet[name, bound] = Measured(runs, worst)
            print(clients, name, bound, flush=True)
    return fleet


def _section(clients: int, k: int, fleet: Fleet, releases: int) -> str:
    lines = [
        f"## {clients} clients, K = k = {k}",
        "",
        f"| recipe | bound | nobody colludes | the {k - 1} fastest | the worst {k - 1} found "
        "| exposed | updates per release | buffers given up |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, bound), measured in fleet.items():
        label = f"| {name} | {'none' if bound is None else bound} "
        lines.append(label + _cells(measured, k - 1, releases))
    return "\n".join([*lines, ""])


def _cells(measured: Measured, size: int, releases: int) -> str:
    runs = measured.runs
    if measured.stands_still(releases):
        reached = ", ".join(str(len(run.sizes)) for run in runs)
        return f"| stands still after {reached} releases | | | | | |"
    nobody = max(run.leverage().max() for run in runs)
    fastest = max(run.leverage(run.fastest[:size].tolist()).max() for run in runs)
    worst = measured.sorted()
    exposed = sum(value > 0.999 for value in worst)
    mean_size = np.mean([size for run in runs for size in run.sizes])
    given_up = sum(run.discarded for run in runs)
    return (
        f"| {nobody:.2f} | {fastest:.2f} | {worst[-1]:.2f} | {exposed} of {len(worst)} "
        f"| {mean_size:.2f} | {given_up} |"
    )


def _drawn(fleets: Mapping[tuple[int, int], Fleet], releases: int) -> Figure:
    figure, axes = subplots(1, len(fleets), sharey=True)
    for axis, ((clients, k), fleet) in zip(axes[0], fleets.items(), strict=True):
        for number, name in enumerate(dict.fromkeys(name for name, _ in fleet)):
            axis.plot([], color=f"C{number}", label=name)
            for bound, style in ((None, "--"), (_USUAL, "-")):
                measured = fleet[name, bound]
                if measured.stands_still(releases):
                    continue
                worst = measured.sorted()
                share = np.arange(1, len(worst) + 1) / len(worst)
                axis.step(worst, share, style, color=f"C{number}", where="post")
        axis.axvline(_USUAL, color="0.7", linewidth=0.8)
        axis.set(title=f"{clients} clients, k = {k}", xlim=(0, 1.02))
        axis.set(xlabel=f"leverage under the worst {k - 1}", ylabel="share of updates")
    axes[0, 0].legend(fontsize="small")
    return figure


def _understatement(releases: int, seeds: Sequence[int]) -> str:
    """Compare the leverage within the horizon with that over the whole run."""
    lines = ["| recipe | clients | largest understatement | mean |", "|---|---|---|---|"]
    for clients, k in FLEETS:
        for name in ("async-wa", "ca2fl"):
            recipe = confidential_recipes(k)[name]
            differences: list[float] = []
            for seed in seeds:
                rule = ReleaseRule(k, max_leverage=_USUAL)
                run = observe(recipe, clients, releases, rule=rule, seed=seed)
                differences += _differences(run.releases(), k - 1)
            lines.append(
                f"| {name} | {clients} | {max(max(differences), 0.0):.3f} "
                f"| {np.mean(np.maximum(differences, 0.0)):.3f} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _missed(seeds: Sequence[int]) -> str:
    """Count the runs in which the worst of all coalitions knows more than the bound."""
    lines = ["| recipe | runs | above | largest leverage |", "|---|---|---|---|"]
    for name, (base, options) in _CACHED.items():
        worst = [_worst_of_all(base, options, *case) for case in product(_SMALL, _SPREADS, seeds)]
        above = sum(value > _USUAL + _LITTLE for value in worst)
        lines.append(f"| {name} | {len(worst)} | {above} | {max(worst):.2f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _worst_of_all(
    base: str, options: Mapping[str, object], fleet: tuple[int, int], spread: float, seed: int
) -> float:
    clients, k = fleet
    recipe = recipe_from(base, buffer_size=k, **options)
    rule = ReleaseRule(k, max_leverage=_USUAL)
    run = observe(Aggregates(recipe), clients, _SHORT, rule=rule, seed=seed, spread=spread)
    coalitions = combinations(range(clients), k - 1)
    return max(run.leverage(coalition).max(initial=0.0) for coalition in coalitions)


def _differences(releases: list[Coefficients], colluders: int) -> list[float]:
    seen: dict[tuple[str, int], float] = {}
    for end in range(1, len(releases) + 1):
        latest = releases[max(0, end - HORIZON) : end]
        found = worst_leverage(latest, colluders, suspected_by_latest=True)
        seen |= {key: max(value, seen.get(key, 0.0)) for key, value in found.items()}
    whole = worst_leverage(releases, colluders)
    return [value - seen[key] for key, value in whole.items()]


_TEXT = """# Leverage of single updates

`python -m experiments.leverage --releases {releases} --seeds {seeds}` writes this page and plot.

The coefficients with which a release sums up its updates are public. The *leverage* of an update
is the squared norm of its unit vector projected onto the row space of those coefficients: 1 means
that it can be solved for, 0 that nothing about it can. With clients that collude, their own
updates are known and drop out of the system.

The real engine runs on unit vectors, so that its output is the coefficient matrix; the fleet's
speeds are lognormal (sigma 1.2), its numbers of examples too (sigma 1), and everyone is always at
work. Each figure is the largest of any
update over {seeds} seeds of {releases} releases, taken over *all* releases of the run. "Worst
found" chooses another coalition for every update (see `strategies/coalitions.py`): exact for
recipes without cached deltas, a lower bound for `async-wa` and `ca2fl`. "Exposed" counts updates
that this coalition can solve for. The recipes' server step is left out: what is released is a
function of the aggregates, so who sees them sees no less.

"Bound" is `max_leverage` of the release rule. A buffer that would pass it takes in further
updates, at most k more, and is then given up. "Stands still" means that hardly any buffer met the
bound: it is too tight for the recipe and the fleet.

![Share of the updates by their leverage](leverage.png)

The plot has the share of the updates of all seeds whose leverage under the worst coalition found is
at most so much: dashed without a bound, drawn through with one of {usual}. Recipes that stand still
are left out.

{sections}
## What the horizon leaves out

With cached deltas an update is in several releases. The enclave looks at the latest {horizon}
together, so that a release costs the same after thousands as after {horizon}: an update that left
the cache is in no later release and gains only by way of the others. This is by how much the
largest leverage that the enclave sees of an update, as the horizon passes by, falls short of that
over the whole run, with a bound of {usual} in force:

{understatement}

## What the search misses

On small fleets all coalitions can be tried: {small}.
Their numbers of examples differ by a sigma of {spreads}; runs have {short} releases with a bound of
{usual} in force, {seeds} seeds each. "Above" counts runs in which the worst of all coalitions
passes it by more than {little}:

{missed}
"""


if __name__ == "__main__":
    main()
