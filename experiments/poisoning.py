"""Final accuracy with hostile clients, filter by filter.

``python -m experiments.poisoning`` simulates what is missing, then writes
``docs/experiments/poisoning.md`` and ``.png``. An interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.common import parser_of
from fl_sim.attacks import ATTACKS, Attack, AttackedTrainer, flipped_labels, hostile_clients
from fl_sim.cohort.base import ClientData, CohortTrainer, Task
from fl_sim.cohort.choice import Problem, trainer_for
from fl_sim.simulation.config import load_config
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import fleet_from
from fl_sim.simulation.loop import LoopSettings, Simulation
from fl_sim.simulation.workload import workload_from
from strategies.catalog import recipe_from
from strategies.recipe import Recipe
from strategies.update import Vector

DOCS = Path(__file__).parents[1] / "docs" / "experiments"
CONFIG: dict[str, dict[str, Any]] = {
    "data": {"alpha": 0.5},
    "devices": {"clients": 40, "sigma": 0.5, "slow_hold_rare": False},
    "train": {"hidden": 32, "local_steps": 5, "backend": "numpy"},
}
BUFFER, UPDATES = 10, 800
SHARES = (0.1, 0.2, 0.3, 0.4)
ASSUMED = 0.3
FILTERS = ("none", "clip", "trimmed-mean", "median", "krum", "trusted-direction")
TRUSTED, ROOT_EXAMPLES = 0, 100
RECIPES: dict[str, dict[str, Any]] = {
    "fedbuff": {},
    "ca2fl": {},
    "async-wa": {"disjoint": True},
}
_CACHED_SHARE = 0.2


class Case(NamedTuple):
    """One run; without an attack `attack` is empty and `share` is 0."""

    recipe: str
    robust: str
    attack: str
    share: float
    seed: int


Accuracies = dict[Case, float]


@dataclass(frozen=True)
class Setting:
    """What all runs of a seed share."""

    problem: Problem
    initial: Vector
    fleet: Fleet
    honest: CohortTrainer
    flipped: CohortTrainer
    clip_norm: float


def setting(seed: int) -> Setting:
    """Prepare data, devices and trainers of a seed."""
    config = load_config(None, CONFIG)
    workload = workload_from(config, seed)
    problem = replace(workload.problem, data=with_root_data(workload.problem.data, seed))
    classes = int(problem.data.labels.max()) + 1
    poisoned = replace(problem, data=flipped_labels(problem.data, classes))
    honest, flipped = (trainer_for(p, "numpy", workload.initial, 16) for p in (problem, poisoned))
    fleet = fleet_from(config.devices, model_bytes=0, virtual_time=1.0, seed=seed, scores=None)
    clip_norm = typical_length(honest, workload.initial, problem.data.num_clients)
    return Setting(problem, workload.initial, fleet, honest, flipped, clip_norm)


def with_root_data(data: ClientData, seed: int) -> ClientData:
    """Give the trusted client a small uniform sample of all examples instead of its own."""
    sample = np.random.default_rng((seed, 8)).choice(data.rows, ROOT_EXAMPLES, replace=False)
    parts = [data.of(client) for client in range(data.num_clients)]
    parts[TRUSTED] = np.sort(sample)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return replace(data, rows=np.concatenate(parts), starts=starts)


def typical_length(trainer: CohortTrainer, initial: Vector, clients: int) -> float:
    """Return the median L2 norm of the clients' first updates."""
    rows = np.empty((clients, initial.size), np.float32)
    for client in range(clients):
        trainer.train([Task(initial, client, 0)], [rows[client]])
    return float(np.median(np.linalg.norm(rows, axis=1)))


def recipe_of(case: Case, clip_norm: float) -> Recipe:
    """Return the recipe of a run."""
    options: dict[str, Any] = {"robust": case.robust, "attackers": ASSUMED}
    if case.robust == "clip":
        options["clip_norm"] = clip_norm
    if case.robust == "trusted-direction":
        options["trusted_client"] = str(TRUSTED)
    return recipe_from(case.recipe, buffer_size=BUFFER, **options, **RECIPES[case.recipe])


def final_accuracy(case: Case, shared: Setting) -> float:
    """Simulate one run."""
    data = shared.problem.data
    trainer: CohortTrainer = shared.honest
    if case.attack:
        hostile = hostile_clients(data.num_clients, case.share, case.seed, spared=(TRUSTED,))
        attack = Attack(case.attack, hostile, boost=BUFFER)  # type: ignore[arg-type]
        trainer = AttackedTrainer(shared.honest, shared.flipped, attack)
    # Long enough for the updates to be delivered; then the run ends.
    horizon = UPDATES * shared.fleet.median_task
    settings = LoopSettings(
        in_flight=data.num_clients,
        horizon=horizon,
        evaluate_every=horizon,
        max_staleness=1000,
        max_updates=UPDATES,
        seed=case.seed,
    )
    recipe = recipe_of(case, shared.clip_norm)
    run = Simulation(trainer, data.sizes().tolist(), shared.initial, shared.fleet, recipe, settings)
    with np.errstate(over="ignore", invalid="ignore"):
        run.run()
    return run.evaluations[-1].accuracy


def cases(seeds: Sequence[int]) -> Iterator[Case]:
    """Yield every run: FedBuff at all shares, recipes with cached deltas at one."""
    for seed in seeds:
        for recipe in RECIPES:
            shares = SHARES if recipe == "fedbuff" else (_CACHED_SHARE,)
            for robust in FILTERS:
                yield Case(recipe, robust, "", 0.0, seed)
                for attack in ATTACKS:
                    yield from (Case(recipe, robust, attack, share, seed) for share in shares)


def simulated(seeds: Sequence[int], path: Path) -> Accuracies:
    """Return the accuracies of all runs; those in the file are not run again."""
    torch.set_num_threads(1)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = {Case(*case): accuracy for case, accuracy in map(json.loads, lines)}
    shared: dict[int, Setting] = {}
    found: Accuracies = {}
    for case in cases(seeds):
        if case not in known:
            if case.seed not in shared:
                shared[case.seed] = setting(case.seed)
            known[case] = final_accuracy(case, shared[case.seed])
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([case, known[case]]) + "\n")
            print(*case, known[case], flush=True)
        found[case] = known[case]
    return found


def _mean(found: Accuracies, recipe: str, robust: str, attack: str, share: float) -> float:
    return statistics.fmean(_of(found, recipe, robust, attack, share))


def _of(found: Accuracies, recipe: str, robust: str, attack: str, share: float) -> list[float]:
    wanted = (recipe, robust, attack, share)
    return [accuracy for case, accuracy in found.items() if case[:4] == wanted]


def _cell(found: Accuracies, recipe: str, robust: str, attack: str, share: float) -> str:
    values = _of(found, recipe, robust, attack, share)
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def _page(found: Accuracies, seeds: int) -> Iterator[str]:
    yield _INTRO.format(
        seeds=seeds,
        clients=CONFIG["devices"]["clients"],
        alpha=CONFIG["data"]["alpha"],
        buffer=BUFFER,
        updates=UPDATES,
        assumed=f"{ASSUMED:.0%}",
        root=ROOT_EXAMPLES,
    )
    yield from ("## FedBuff", "")
    for attack in ATTACKS:
        columns = [("", 0.0), *((attack, share) for share in SHARES)]
        yield from (f"### {attack}", "")
        yield "| filter | nobody | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
        yield "|---" * (len(SHARES) + 2) + "|"
        for robust in FILTERS:
            cells = [_cell(found, "fedbuff", robust, *column) for column in columns]
            yield f"| {robust} | {' | '.join(cells)} |"
        yield ""
    yield from (f"## With cached deltas, {_CACHED_SHARE:.0%} hostile", "")
    yield "| recipe | filter | nobody | " + " | ".join(ATTACKS) + " |"
    yield "|---" * (len(ATTACKS) + 3) + "|"
    columns = [("", 0.0), *((attack, _CACHED_SHARE) for attack in ATTACKS)]
    for recipe in list(RECIPES)[1:]:
        for robust in FILTERS:
            cells = [_cell(found, recipe, robust, *column) for column in columns]
            yield f"| {recipe} | {robust} | {' | '.join(cells)} |"
    yield from ("", "## What goes wrong", "")
    yield from _negatives(found)


def _negatives(found: Accuracies) -> Iterator[str]:
    """Name what a filter costs without an attack, and where it is worse than none."""
    plain_of = {recipe: _mean(found, recipe, "none", "", 0.0) for recipe in RECIPES}
    for recipe, plain in plain_of.items():
        costs = [
            f"{robust} {100 * (_mean(found, recipe, robust, '', 0.0) - plain):+.1f}"
            for robust in FILTERS[1:]
        ]
        yield f"- {recipe}, nobody hostile, in points against no filter: {', '.join(costs)}."
    for recipe, attack in product(RECIPES, ATTACKS):
        worse, broken = [], []
        for robust, share in product(FILTERS[1:], SHARES):
            if not _of(found, recipe, robust, attack, share):
                continue
            accuracy = _mean(found, recipe, robust, attack, share)
            if accuracy < _mean(found, recipe, "none", attack, share):
                worse.append(f"{robust} at {share:.0%}")
            if 2 * accuracy < plain_of[recipe]:
                broken.append(f"{robust} at {share:.0%}")
        yield (
            f"- {recipe}, {attack}: worse than no filter: {', '.join(worse) or 'none'}; "
            f"below half of the accuracy without attack: {', '.join(broken) or 'none'}."
        )
    yield ""


def _draw(found: Accuracies, path: Path) -> None:
    figure = Figure(figsize=(4 * len(ATTACKS), 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(ATTACKS), sharey=True)
    for axes, attack in zip(grid, ATTACKS, strict=True):
        for robust in FILTERS:
            values = [_mean(found, "fedbuff", robust, "", 0.0)]
            values += [_mean(found, "fedbuff", robust, attack, share) for share in SHARES]
            style = {"color": "black", "linestyle": "--"} if robust == "none" else {}
            axes.plot((0.0, *SHARES), values, marker="o", markersize=3, label=robust, **style)
        axes.set(title=attack, xlabel="share of hostile clients", ylim=(0, 1))
        axes.grid(alpha=0.25)
    grid[0].set_ylabel("final accuracy")
    grid[0].legend(fontsize="small", loc="lower left", frameon=False)
    figure.savefig(path)


_INTRO = """\
# Hostile clients

`python -m experiments.poisoning --seeds {seeds}`: MNIST-5k, Dirichlet {alpha} over {clients}
devices (lognormal speeds, sigma 0.5), a perceptron of 32 hidden units, buffers of {buffer},
{updates} updates. Each figure is the final test accuracy in per cent over {seeds} seeds, with the
standard deviation. A
share of the *clients* is hostile from the start; how many of them are in a
buffer is chance, so at 30 % many buffers hold more than the {assumed} that trimmed mean and Krum
are told to expect, and at 40 % most do.

The attacks are those of `fl_sim/attacks.py`. `clip` shortens to the median length of the clients'
first updates. The trusted client of `trusted-direction` holds {root} examples drawn uniformly from
all of the training data, in every run of this page, and is never hostile.

Under a release rule only `clip` and `krum` are allowed ([threat model](../threat-model.md)).

![Final accuracy by share of hostile clients, FedBuff](poisoning.png)
"""


def main() -> None:
    """Simulate, tabulate, draw."""
    arguments = parser_of(__doc__, "poisoning.jsonl", seeds=3).parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    found = simulated(range(1, arguments.seeds + 1), arguments.results)
    (DOCS / "poisoning.md").write_text("\n".join(_page(found, arguments.seeds)), encoding="utf-8")
    _draw(found, DOCS / "poisoning.png")


if __name__ == "__main__":
    main()
