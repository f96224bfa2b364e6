"""FedBuff's speed-up over synchronous rounds, by the number of clients that train at a time.

``python -m experiments.concurrency`` simulates what is missing, from
``experiments/concurrency.toml``, then writes ``docs/experiments/concurrency.md`` and ``.png``.
An interrupted run goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.common import (
    HERE,
    Results,
    Sections,
    finite,
    median_time,
    outcome_cells,
    parser_of,
    publish,
    simulate_cases,
    subplots,
)
from fl_sim.simulation.config import load_config
from strategies.recipes.fedavg import FedAvg

ROUNDS = (10, 20, 50, 100, 150)
"""Results that close a synchronous round."""
SYNCHRONOUS = {f"fedavg, server lr {lr:g}": lr for lr in (1.0, 2.0, 4.0)}
ASYNCHRONOUS = ("fedbuff", "async-wa")
_BASELINE = "fedavg, its best lr"

_INTRODUCTION = """\
# Concurrency and the speed-up over synchronous rounds

`python -m experiments.concurrency --seeds {seeds}`: logistic regression on MNIST-5k, 200 devices
of lognormal speeds (`experiments/concurrency.toml`). FedAvg asks 30 % more clients than it waits
for, so a round of m results has 1.3 m at work, beside who is late for an earlier one; the
asynchronous recipes keep 1.3 m at work.
FedAvg has the server learning rate of three that suits it best at each concurrency; FedBuff (K of
10, or half of those at work) and Async-WA have their defaults, tuned for neither. Times are medians
over the seeds, in median task durations, to an accuracy of {target:.0%}; speed-up is the time of
the soonest FedAvg at the same concurrency over the recipe's.

![Time to target and speed-up by concurrency](concurrency.png)

| at work | recipe | final accuracy | time to target | arrived | speed-up |
|---|---|---|---|---|---|
"""


def main() -> None:
    """Simulate, tabulate, draw."""
    arguments = parser_of(__doc__, "concurrency.jsonl", seeds=3).parse_args()
    config = HERE / "concurrency.toml"
    found = {
        concurrency_of(size): simulate_cases(
            config, cases_of(size), arguments.results, arguments.seeds
        )
        for size in ROUNDS
    }
    target = load_config(config).run.target_accuracy
    text = _INTRODUCTION.format(seeds=arguments.seeds, target=target)
    publish("concurrency", text + "\n".join(table_of(found)), _drawn(found, target))


def concurrency_of(round_size: int) -> int:
    """Return how many clients a synchronous round of so many results asks."""
    cohort = FedAvg(buffer_size=round_size).parts().cohort
    assert cohort is not None
    return cohort


def cases_of(round_size: int) -> dict[str, Sections]:
    """Return each recipe with as many clients at work as in a synchronous round."""
    strategies: dict[str, dict[str, Any]] = {
        name: {
            "name": "fedavg",
            "options": {"fedavg": {"buffer_size": round_size, "server_lr": lr}},
        }
        for name, lr in SYNCHRONOUS.items()
    }
    strategies |= {name: {"name": name} for name in ASYNCHRONOUS}
    devices = {"in_flight": concurrency_of(round_size)}
    return {
        name: {"strategy": strategy, "devices": devices} for name, strategy in strategies.items()
    }


def table_of(found: Mapping[int, Results]) -> Iterator[str]:
    """Yield the rows by concurrency, then sentences on the largest one."""
    for concurrency, results in found.items():
        for name, result in results.items():
            cells = " | ".join(outcome_cells(result))
            yield f"| {concurrency} | {name} | {cells} | {_times(speed_up(results, name))} |"
    yield ""
    least, most = min(found), max(found)
    gained = synchronous_time(found[least]) / synchronous_time(found[most])
    yield f"- {_BASELINE}: {_times(gained)} as soon with {most} at work as with {least}."
    for name in ASYNCHRONOUS:
        gained = median_time(found[least][name]) / median_time(found[most][name])
        yield f"- {name}: {_times(gained)} as soon with {most} at work as with {least}."
    yield ""
    yield (
        "A synchronous round grows with the number at work and lasts as long as the slowest that "
        "it waits for; a buffer does not grow, so FedBuff makes the more versions the more are at "
        "work. Async-WA moves with every upload anyway, so it is early at a low concurrency and "
        "gains less from a high one."
    )
    yield ""
    yield (
        f"The paper of FedBuff (Nguyen et al. 2021) reports a speed-up of 3.3 at its largest "
        f"concurrency, on other data and devices; here it is "
        f"{_times(speed_up(found[most], 'fedbuff'))} with {most} of 200 clients at work."
    )
    yield ""


def speed_up(results: Results, name: str) -> float:
    """Return how many times sooner than synchronous rounds a recipe is at the target."""
    return synchronous_time(results) / median_time(results[name])


def synchronous_time(results: Results) -> float:
    """Return the median time to the target of the soonest synchronous recipe."""
    return min(median_time(results[name]) for name in SYNCHRONOUS)


def _times(ratio: float) -> str:
    if math.isnan(ratio):
        return "neither arrives"
    return "only this arrives" if math.isinf(ratio) else f"{ratio:.1f} times"


def _drawn(found: Mapping[int, Results], target: float | None) -> Figure:
    figure, grid = subplots(1, 2)
    left, right = grid[0]
    baseline = {"color": "black", "linestyle": "--", "label": _BASELINE}
    left.plot(list(found), [finite(synchronous_time(r)) for r in found.values()], **baseline)
    right.axhline(1, **baseline)
    for name in ASYNCHRONOUS:
        times = [finite(median_time(results[name])) for results in found.values()]
        left.plot(list(found), times, marker="o", label=name)
        ratios = [finite(speed_up(results, name)) for results in found.values()]
        right.plot(list(found), ratios, marker="o", label=name)
    ticks = (1, 2, 5, 10, 20)
    left.set(yscale="log", yticks=ticks, yticklabels=ticks, ylim=(1, 30))
    left.minorticks_off()
    left.set_ylabel(f"virtual time to accuracy {target}")
    right.set(ylabel="speed-up over fedavg", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="clients at work", xticks=list(found))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
