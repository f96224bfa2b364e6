"""FedAsync's staleness functions, with speed unrelated to the labels and with rare classes slow.

``python -m experiments.staleness`` simulates what is missing, from ``experiments/staleness.toml``,
then writes ``docs/experiments/staleness.md`` and ``.png``. An interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from matplotlib.figure import Figure

from experiments.common import (
    HERE,
    Results,
    Sections,
    mean_accuracy,
    mean_curve,
    outcome_cells,
    paired_points,
    parser_of,
    publish,
    simulate_cases,
    spread,
    subplots,
)

FUNCTIONS = ("constant", "polynomial", "hinge")
MIXING = (0.1, 0.3, 0.6, 0.9)
FLEETS = {"speed unrelated to labels": False, "slow devices hold the rare classes": True}
Sweep = Mapping[str, Mapping[float, Results]]
"""By fleet, mixing weight and staleness function."""

_INTRODUCTION = """\
# FedAsync's staleness functions

`python -m experiments.staleness --seeds {seeds}`: logistic regression on MNIST-5k with three rare
digits, 40 devices of lognormal speeds, 10 training at a time (`experiments/staleness.toml`).
FedAsync (Xie et al. 2019) mixes each model in with the weight a s(tau): s constant, polynomial
(1 + tau)^-0.5, or hinge (slope 10, delay 4), the paper's parameters. Both fleets have the same
speeds and data; in the second, the slowest devices hold most of the rare digits. Accuracy is that
of a test set in which all digits are equally frequent.

With 10 at work an update is about 9 versions old on average, so a discount also makes the average
step shorter. To tell the two effects apart, a is swept for every function, and each is shown at
the a that suits it best: chosen on the seeds shown, from the same values for all.

![Learning curves and the sweep of the mixing weight](staleness.png)
"""


def main() -> None:
    """Simulate, tabulate, draw."""
    arguments = parser_of(__doc__, "staleness.jsonl", seeds=3).parse_args()
    found = {
        fleet: {
            mixing: simulate_cases(
                HERE / "staleness.toml",
                cases_of(mixing, slow_hold_rare),
                arguments.results,
                arguments.seeds,
            )
            for mixing in MIXING
        }
        for fleet, slow_hold_rare in FLEETS.items()
    }
    text = _INTRODUCTION.format(seeds=arguments.seeds)
    publish("staleness", "\n".join([text, *sections_of(found)]), _drawn(found))


def cases_of(mixing: float, slow_hold_rare: bool) -> dict[str, Sections]:
    """Return each staleness function with a mixing weight and a fleet."""
    return {
        function: {
            "strategy": {
                "name": "fedasync",
                "options": {"fedasync": {"mixing": mixing, "staleness": function}},
            },
            "devices": {"slow_hold_rare": slow_hold_rare},
        }
        for function in FUNCTIONS
    }


def sections_of(found: Sweep) -> Iterator[str]:
    """Yield a table per fleet, and what each discount gains over none."""
    for fleet, sweep in found.items():
        yield from (f"## {fleet.capitalize()}", "")
        yield "| staleness function | a | final accuracy | time to target | arrived |"
        yield "|---|---|---|---|---|"
        for function in FUNCTIONS:
            best = best_mixing(sweep, function)
            for mixing, results in sweep.items():
                mark = " (best)" if mixing == best else ""
                cells = " | ".join(outcome_cells(results[function]))
                yield f"| {function} | {mixing}{mark} | {cells} |"
        yield ""
        undiscounted = sweep[best_mixing(sweep, "constant")]["constant"]
        for function in FUNCTIONS[1:]:
            result = sweep[best_mixing(sweep, function)][function]
            points = spread(paired_points(result, undiscounted))
            yield f"- {function} over constant, each at its best a: {points} points, seed by seed."
        yield ""


def best_mixing(sweep: Mapping[float, Results], function: str) -> float:
    """Return the mixing weight with the highest mean final accuracy."""
    return max(sweep, key=lambda mixing: mean_accuracy(sweep[mixing][function]))


def _drawn(found: Sweep) -> Figure:
    figure, grid = subplots(2, len(found), sharey=True)
    for (above, below), (fleet, sweep) in zip(grid.T, found.items(), strict=True):
        for function in FUNCTIONS:
            best = best_mixing(sweep, function)
            result = sweep[best][function]
            times, means = mean_curve([run.accuracies for run in result.runs])
            above.plot(times, means, label=f"{function}, a = {best}")
            finals = [mean_accuracy(results[function]) for results in sweep.values()]
            below.plot(list(sweep), finals, marker="o", label=function)
        above.set(title=fleet, xlabel="virtual time", ylim=(0, 1))
        below.set(xlabel="mixing weight a", xscale="log", xticks=MIXING, xticklabels=MIXING)
        below.minorticks_off()
        for axes in (above, below):
            axes.grid(alpha=0.25)
            axes.legend(frameon=False, loc="lower right")
    grid[0, 0].set_ylabel("accuracy, mean over seeds")
    grid[1, 0].set_ylabel("final accuracy, mean over seeds")
    return figure


if __name__ == "__main__":
    main()
