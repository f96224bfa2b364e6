"""Synchronous against asynchronous: utilisation of devices, task success under faults, latency.

``python -m experiments.utilisation`` simulates what is missing, from
``experiments/utilisation.toml``, then writes ``docs/experiments/utilisation.md`` and ``.png``. An
interrupted run goes on where it was.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

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
from fl_sim.simulation.result import SimulationResult

# A round is closed after this time (virtual seconds, about median tasks) though results are
# missing, or one death would stop a recipe that waits for everyone.
_DEADLINE = 20.0
# The best of three for rounds of this size, see docs/experiments/concurrency.md.
_SERVER_LR = 2.0
STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg, all": {
        "name": "fedavg",
        "options": {
            "fedavg": {
                "buffer_size": 60,
                "over_selection": 0.0,
                "max_wait": _DEADLINE,
                "server_lr": _SERVER_LR,
            },
        },
    },
    "fedavg, first 46": {
        "name": "fedavg",
        "options": {
            "fedavg": {"buffer_size": 46, "max_wait": _DEADLINE, "server_lr": _SERVER_LR},
        },
    },
    "fedbuff": {"name": "fedbuff"},
    "async-wa": {"name": "async-wa"},
}
SYNCHRONOUS = tuple(STRATEGIES)[:2]
OURS = "async-wa"
SIGMAS = (0.25, 0.5, 0.8, 1.2)
FAULTS: dict[str, dict[str, float]] = {
    "none": {},
    "dropout 10 %": {"dropout": 0.1},
    "dropout 10 %, deaths 10 %": {"dropout": 0.1, "death_rate": 0.1},
    "dropout 10 %, deaths 30 %": {"dropout": 0.1, "death_rate": 0.3},
}
_FAULTY_SIGMA = 0.5

_INTRODUCTION = """\
# Utilisation, task success and latency: synchronous against asynchronous

`python -m experiments.utilisation --seeds {seeds}`: logistic regression on MNIST-5k, 60 devices of
lognormal speeds, the slowest with most of the rare digits (`experiments/utilisation.toml`). Every
recipe may use all 60. *fedavg, all* waits for everyone, *fedavg, first 46* for that many of all
that are idle (30 % over-selection), and refuses who is late, who works on meanwhile; both close a
round {deadline:.0f} virtual seconds after its first result at the latest, and have the server
learning rate 2, the best of three for such rounds in [concurrency](concurrency.md); the others have
their defaults. Time passes in tasks only: neither the server nor the network takes any.

What is counted:

- **Utilisation**: device time with a task under way, over device time until the end of the run or
  the device's death. Work on an update that comes too late for its round counts as use.
- **Completed**: of the tasks that ended, those whose update reached the server, late or not. The
  others broke off or died with their device.
- **Used**: of the tasks that ended, those whose update was merged or was waiting to be.
- **Used, retried**: the same without the tasks that broke off or died, since the server at once
  hands another task to an idle device in their place.
- **Latency**: virtual time, in median tasks, to the target accuracy of {target:.0%}; median over
  the seeds.

![Utilisation by spread of speeds, and task success under faults](utilisation.png)
"""


class Success(NamedTuple):
    """Shares of the tasks that ended, see the page."""

    completed: float
    used: float
    used_retried: float


def main() -> None:
    """Simulate, tabulate, draw."""
    arguments = parser_of(__doc__, "utilisation.jsonl", seeds=3).parse_args()
    config = HERE / "utilisation.toml"

    def simulated(devices: dict[str, float]) -> Results:
        return simulate_cases(config, cases_of(devices), arguments.results, arguments.seeds)

    spreads = {sigma: simulated({"sigma": sigma}) for sigma in SIGMAS}
    faults = {
        name: simulated({"sigma": _FAULTY_SIGMA, **devices}) for name, devices in FAULTS.items()
    }
    text = _INTRODUCTION.format(
        seeds=arguments.seeds,
        deadline=_DEADLINE,
        target=load_config(config).run.target_accuracy,
    )
    page = "\n".join([text, *aims_of(spreads, faults), *spreads_of(spreads), *faults_of(faults)])
    publish("utilisation", page, _drawn(spreads, faults))


def cases_of(devices: dict[str, float]) -> dict[str, Sections]:
    """Return every strategy on the same devices."""
    return {
        name: {"strategy": strategy, "devices": devices} for name, strategy in STRATEGIES.items()
    }


def success_of(result: SimulationResult) -> Success:
    """Count the tasks of all seeds."""
    outcomes: Counter[str] = Counter()
    for run in result.runs:
        outcomes.update(run.outcomes)
    ended, failed, used = outcomes.total(), outcomes["failed"], outcomes["accepted"]
    return Success((ended - failed) / ended, used / ended, used / (ended - failed))


def utilisation_of(result: SimulationResult) -> float:
    """Return the mean utilisation over the seeds."""
    return statistics.fmean(run.utilisation or 0.0 for run in result.runs)


def aims_of(spreads: Mapping[float, Results], faults: Mapping[str, Results]) -> Iterator[str]:
    """Yield what the project aims at beside what is measured."""
    yield from ("## Beside the aims", "", "| aim | Async-WA | synchronous |", "|---|---|---|")
    shares = {
        name: _range([utilisation_of(results[name]) for results in spreads.values()])
        for name in (OURS, *SYNCHRONOUS)
    }
    both = ", ".join(f"{shares[name]} ({name})" for name in SYNCHRONOUS)
    yield f"| utilisation of at least 89 % against 67 % | {shares[OURS]} | {both} |"
    latencies = [
        (
            _latency(median_time(results[OURS])),
            _latency(min(median_time(results[name]) for name in SYNCHRONOUS)),
        )
        for results in spreads.values()
    ]
    mine, sooner = (", ".join(column) for column in zip(*latencies, strict=True))
    sigmas = ", ".join(map(str, spreads))
    yield f"| half the latency (sigma {sigmas}) | {mine} | {sooner} (the sooner of the two) |"
    for label, column in (("completed", 0), ("used", 1), ("used, retried", 2)):
        values = [
            [success_of(results[name])[column] for name in (OURS, *SYNCHRONOUS)]
            for fault, results in faults.items()
            if FAULTS[fault]
        ]
        mine, *sync = (_range(list(each)) for each in zip(*values, strict=True))
        both = ", ".join(f"{s} ({n})" for s, n in zip(sync, SYNCHRONOUS, strict=True))
        yield f"| task success of at least 97 % under faults: {label} | {mine} | {both} |"
    yield from ("", _VERDICT, "")


_VERDICT = """\
Two of these figures hold by construction. An asynchronous device gets its next task as soon as it
has delivered, and here that takes no time, so utilisation near 100 % says that no barrier keeps
devices waiting; a real server and network would cost some of it. And where a tenth of the tasks
break off, no rule can complete 97 % of the tasks it begins: *used, retried* is the sense in which a
rule can reach that aim, and an asynchronous one does because it turns nothing away as too late."""


def spreads_of(spreads: Mapping[float, Results]) -> Iterator[str]:
    """Yield a row per spread of speeds and strategy."""
    yield from ("## Without faults, by spread of speeds (sigma, in logarithms)", "")
    yield "| sigma | strategy | final accuracy | latency | arrived | utilisation | used |"
    yield "|---|---|---|---|---|---|---|"
    for sigma, results in spreads.items():
        for name, result in results.items():
            yield (
                f"| {sigma} | {name} | {' | '.join(outcome_cells(result))} "
                f"| {utilisation_of(result):.1%} | {success_of(result).used:.1%} |"
            )
    yield ""


def faults_of(faults: Mapping[str, Results]) -> Iterator[str]:
    """Yield a row per kind of fault and strategy."""
    yield from (f"## Under faults (sigma {_FAULTY_SIGMA})", "")
    yield (
        "| faults | strategy | final accuracy | latency | arrived | utilisation "
        "| completed | used | used, retried |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for fault, results in faults.items():
        for name, result in results.items():
            success = " | ".join(f"{share:.1%}" for share in success_of(result))
            yield (
                f"| {fault} | {name} | {' | '.join(outcome_cells(result))} "
                f"| {utilisation_of(result):.1%} | {success} |"
            )
    yield ""


def _latency(time: float) -> str:
    return f"{time:.1f}" if math.isfinite(time) else "never"


def _range(shares: list[float]) -> str:
    if f"{min(shares):.1%}" == f"{max(shares):.1%}":
        return f"{min(shares):.1%}"
    return f"{min(shares):.1%} to {max(shares):.1%}"


def _drawn(spreads: Mapping[float, Results], faults: Mapping[str, Results]) -> Figure:
    figure, grid = subplots(1, 3)
    use, latency, success = grid[0]
    for number, name in enumerate(STRATEGIES):
        shares = [utilisation_of(results[name]) for results in spreads.values()]
        # Dashed, or it would hide another line at 100 %.
        style = "--" if name == OURS else "-"
        use.plot(list(spreads), shares, style, marker="o", label=name)
        times = [finite(median_time(results[name])) for results in spreads.values()]
        latency.plot(list(spreads), times, style, marker="o", label=name)
        places = [index + 0.2 * (number - 1.5) for index in range(len(faults))]
        used = [success_of(results[name]).used for results in faults.values()]
        success.bar(places, used, width=0.2, label=name)
    use.axhline(0.89, color="black", linestyle=":", linewidth=1)
    use.annotate("aim: 89 %", (SIGMAS[-1], 0.88), ha="right", va="top", fontsize="small")
    use.set(xlabel="sigma of the speeds", ylabel="utilisation", ylim=(0, 1.05))
    ticks = (2, 5, 10, 20)
    latency.set(yscale="log", yticks=ticks, yticklabels=ticks, ylim=(2, 40))
    latency.minorticks_off()
    latency.set(xlabel="sigma of the speeds", ylabel="virtual time to target, if reached")
    labels = [fault.replace(", ", "\n") for fault in faults]
    success.set(xticks=range(len(faults)), xticklabels=labels, ylim=(0, 1.05))
    success.set_ylabel("share of ended tasks that were used")
    success.tick_params(axis="x", labelsize="small")
    for axes in grid[0]:
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    figure.legend(*use.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


if __name__ == "__main__":
    main()
