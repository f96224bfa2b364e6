"""Options for the recipes that Async-WA is compared with: one setting each, for all regimes.

``python -m experiments.tuning`` tries a few settings of each recipe in four of the regimes of
``experiments/regimes/``, on seeds that the comparison does not use, and writes the best to
``experiments/rivals.json``. Best is the largest mean accuracy over the whole run and the regimes:
it counts how soon and how far. An interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from experiments.common import HERE, parser_of
from fl_sim.simulation.config import load_config
from fl_sim.simulation.result import SimulationResult
from fl_sim.simulation.sweep import simulate
from strategies.catalog import RECIPES
from strategies.recipes.async_wa import AsyncWA

RIVALS = HERE / "rivals.json"
Options = Mapping[str, Any]

REGIMES = ("always-on", "arms", "iid", "limited")
_FIRST_SEED = 1
_SINGLE = {"server_lr": (0.1, 0.3, 0.5, 1.0, 2.0)}
_BUFFERS = {"buffer_size": (5, 10), "server_lr": (1.0, 2.0, 4.0)}
_TRIED: dict[str, Mapping[str, tuple[Any, ...]]] = {
    "ace": _SINGLE,
    "aced": _SINGLE,
    "area": {"server_lr": (0.5, 1.0, 2.0)},
    "asyncfeded": _SINGLE,
    "ca2fl": _BUFFERS,
    "dc-asgd": _SINGLE,
    "fadas": {"buffer_size": (5, 10), "server_lr": (0.01, 0.03)},
    "fedasync": {"mixing": (0.3, 0.6, 0.9)},
    "fedavg": {"buffer_size": (5, 10, 20), "server_lr": (1.0, 2.0)},
    "fedbuff": {"buffer_size": (5, 10), "server_lr": (2.0, 4.0, 8.0)},
    "fedstaleweight": _BUFFERS,
    "ringleader": _SINGLE,
    "ringmaster": _SINGLE,
}
# Uploads per client over which models are averaged for publishing.
_MEAN = {"published_rounds": 2.0}


def main() -> None:
    """Try, choose, write down."""
    arguments = parser_of(__doc__, "tuning", seeds=2).parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    chosen = {
        name: best_of(name, REGIMES, arguments.results, arguments.seeds)
        for name in RECIPES
        if name != AsyncWA.name
    }
    RIVALS.write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")


def rivals() -> dict[str, Options]:
    """Return the options chosen for each recipe."""
    chosen: dict[str, Options] = json.loads(RIVALS.read_text(encoding="utf-8"))
    return chosen


def candidates(name: str) -> Iterator[Options]:
    """Yield the settings of a recipe that are tried, its defaults first."""
    yield {}
    tried = _TRIED[name]
    for values in product(*tried.values()):
        yield {**dict(zip(tried, values, strict=True)), **_MEAN}


def best_of(name: str, regimes: Sequence[str], results: Path, seeds: int) -> Options:
    """Return the setting of a recipe with the best mean score over regimes."""

    def mean_score(options: Options) -> float:
        scores = []
        for regime in regimes:
            config = load_config(
                HERE / "regimes" / f"{regime}.toml",
                {
                    "strategy": {"name": name, "options": {name: options}},
                    "run": {"first_seed": _FIRST_SEED, "seeds": seeds},
                },
            )
            scores.append(score(simulate(config, results=results / f"{regime}.jsonl")))
        print(name, options, [round(each, 3) for each in scores], flush=True)
        return statistics.fmean(scores)

    return max(candidates(name), key=mean_score)


def score(result: SimulationResult) -> float:
    """Return the mean accuracy over all evaluations and seeds."""
    return statistics.fmean(accuracy for run in result.runs for _, accuracy in run.accuracies)


if __name__ == "__main__":
    main()
