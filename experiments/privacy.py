"""What differential privacy costs in accuracy, by epsilon and size of the federation.

``python -m experiments.privacy`` simulates what is missing, then writes
``docs/experiments/privacy.md`` and ``.png``. An interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.common import parser_of, publish, subplots
from experiments.poisoning import typical_length
from fl_sim.cohort.choice import trainer_for
from fl_sim.simulation.config import load_config
from fl_sim.simulation.fleet_builder import fleet_from
from fl_sim.simulation.loop import LoopSettings, Simulation
from fl_sim.simulation.workload import workload_from
from strategies.privacy.accountant import epsilon_of
from strategies.privacy.settings import Privacy
from strategies.recipes.fedbuff import FedBuff

# Clients and buffer: a tenth of the clients, so that all take part about equally often.
FEDERATIONS = {100: 10, 500: 50, 2000: 200}
EPSILONS = (2.0, 8.0, 32.0)
DELTA = 1e-5
RELEASES = 10
NOT_PRIVATE, CLIPPED = "no privacy", "clipped only"
MODES = (NOT_PRIVATE, CLIPPED, *(f"epsilon {epsilon:g}" for epsilon in reversed(EPSILONS)))


class Case(NamedTuple):
    """One run."""

    clients: int
    mode: str
    seed: int


Curve = list[tuple[int, float]]
"""Accuracy after so many updates."""


def noise_multiplier(epsilon: float) -> float:
    """Return the least noise with which a client may be in `RELEASES` releases."""
    low, high = 0.1, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        spent = epsilon_of(RELEASES / (2 * middle**2), DELTA)
        low, high = (low, middle) if spent <= epsilon else (middle, high)
    return high * (1 + 1e-6)


def simulated(case: Case) -> Curve:
    """Simulate one run; every client may be in `RELEASES` releases, and on average is in fewer."""
    devices = {"clients": case.clients, "sigma": 0.25, "slow_hold_rare": False}
    train = {"model": "logistic", "local_steps": 5, "backend": "numpy"}
    config = load_config(None, {"data": {"partition": "iid"}, "devices": devices, "train": train})
    workload = workload_from(config, case.seed)
    data, initial = workload.problem.data, workload.initial
    trainer = trainer_for(workload.problem, "numpy", initial, 16)
    clip = typical_length(trainer, initial, min(100, data.num_clients))
    privacy, options = None, {}
    if case.mode == CLIPPED:
        options = {"robust": "clip", "clip_norm": clip}
    elif case.mode != NOT_PRIVATE:
        epsilon = float(case.mode.split()[1])
        privacy = Privacy(clip, noise_multiplier(epsilon), DELTA, epsilon)
    recipe = FedBuff(FEDERATIONS[case.clients], **options)  # type: ignore[arg-type]
    fleet = fleet_from(config.devices, model_bytes=0, virtual_time=1.0, seed=case.seed, scores=None)
    updates = int(0.8 * RELEASES * case.clients)
    horizon = RELEASES * fleet.median_task
    settings = LoopSettings(
        in_flight=case.clients,
        horizon=horizon,
        evaluate_every=horizon / 20,
        max_staleness=1000,
        max_updates=updates,
        seed=case.seed,
    )
    sizes = data.sizes().tolist()
    run = Simulation(trainer, sizes, initial, fleet, recipe, settings, privacy=privacy)
    run.run()
    budget = run.engine.budget
    assert budget is None or budget.most_spent <= RELEASES
    buffer = FEDERATIONS[case.clients]
    return [(point.version * buffer, point.accuracy) for point in run.evaluations]


def main() -> None:
    """Simulate, tabulate, draw."""
    arguments = parser_of(__doc__, "privacy.jsonl", seeds=3).parse_args()
    torch.set_num_threads(1)
    path = arguments.results
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known: dict[Case, Curve] = {Case(*case): curve for case, curve in map(json.loads, lines)}
    found: dict[Case, Curve] = {}
    for clients in FEDERATIONS:
        for seed in range(1, arguments.seeds + 1):
            for mode in MODES:
                case = Case(clients, mode, seed)
                if case not in known:
                    known[case] = simulated(case)
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([case, known[case]]) + "\n")
                    print(*case, known[case][-1], flush=True)
                found[case] = known[case]
    publish("privacy", "\n".join(_page(found, arguments.seeds)), _drawn(found))


def _finals(found: Mapping[Case, Curve], clients: int, mode: str) -> list[float]:
    return [100 * curve[-1][1] for case, curve in found.items() if case[:2] == (clients, mode)]


def _page(found: Mapping[Case, Curve], seeds: int) -> Iterator[str]:
    noises = ", ".join(f"{noise_multiplier(e):.2f} for {e:g}" for e in EPSILONS)
    yield _INTRO.format(seeds=seeds, delta=DELTA, releases=RELEASES, noises=noises)
    yield "| clients, buffer | " + " | ".join(MODES) + " |"
    yield "|---" * (len(MODES) + 1) + "|"
    for clients, buffer in FEDERATIONS.items():
        cells = []
        for mode in MODES:
            values = _finals(found, clients, mode)
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}")
        yield f"| {clients}, {buffer} | {' | '.join(cells)} |"
    yield ""


def _drawn(found: Mapping[Case, Curve]) -> Any:
    figure, grid = subplots(1, len(FEDERATIONS), sharey=True)
    for axes, (clients, buffer) in zip(grid[0], FEDERATIONS.items(), strict=True):
        for mode in MODES:
            curves = [curve for case, curve in found.items() if case[:2] == (clients, mode)]
            points = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
            axes.plot(points[:, 0] / clients, points[:, 1], label=mode)
        axes.set(title=f"{clients} clients, buffers of {buffer}", ylim=(0, 1))
        axes.set_xlabel("updates per client")
        axes.grid(alpha=0.25)
    grid[0][0].set_ylabel("test accuracy")
    grid[0][-1].legend(fontsize="small", frameon=False)
    return figure


_INTRO = """\
# The price of differential privacy

`python -m experiments.privacy --seeds {seeds}`: MNIST-5k at random, logistic regression
(7,850 parameters), FedBuff. Accuracy on the test set in per cent at the end, with the standard
deviation over {seeds} seeds. Every client may be in {releases} releases at most, and the noise is
the least with which that many keep epsilon at delta = {delta:g}: multipliers of {noises}.
The same data are spread over 100, 500 or 2,000 clients, so that a client of the largest federation
has two examples.

"Clipped only" shortens updates as the private runs do, to the median length of the first updates
of 100 clients. That length was looked up in the data; a real federation would have to guess it, or
pay for it. Nothing else was tuned. No credit is taken for chance in who takes part.

One client hides among those of its release: the noise on the mean falls with the buffer. So privacy
costs little where many clients share a release, and ruins a model made by few.

![Accuracy by updates per client](privacy.png)
"""


if __name__ == "__main__":
    main()
