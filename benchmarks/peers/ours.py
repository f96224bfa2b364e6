"""The jobs on the fast path of `fl_sim`: FedBuff on simulated devices.

Stale updates are not discounted, so that the loss can be compared with that of plain averaging.
One seed in one process; or several side by side, each in a process of its own, as a sweep with
`[run] workers` runs them.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import numpy as np
import torch

import asynclave
from benchmarks.peers import driver, jobs
from benchmarks.peers.network import network
from fl_client.optimiser import SGD
from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData
from fl_sim.cohort.choice import Problem, trainer_for
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import speeds
from fl_sim.simulation.loop import LoopSettings, Simulation
from strategies.recipes.fedbuff import FedBuff
from strategies.update import Vector

_FOREVER = 1e9


class _Federation:
    def __init__(self, job: jobs.Job, seed: int = jobs.SEED) -> None:
        self._seed = seed
        inputs, labels = jobs.training_data()
        data = ClientData(
            inputs, labels, np.arange(len(labels)), np.arange(jobs.CLIENTS + 1) * jobs.EXAMPLES
        )
        problem = Problem(
            data,
            (inputs[:1], labels[:1]),
            TrainSettings(SGD(jobs.LR), jobs.BATCH_SIZE, seed=seed, steps=jobs.STEPS),
            lambda: network(job.name),
            job.widths,
        )
        self._model: Vector = np.concatenate([w.ravel() for w in jobs.initial_weights(job)])
        self._shapes = [weight.shape for weight in jobs.initial_weights(job)]
        self._trainer = trainer_for(problem, "auto", self._model, LoopSettings.cohort_size)
        compute = tuple(speeds("lognormal", jobs.CLIENTS, 1.2, seed).tolist())
        self._fleet = Fleet(compute, (0.1,) * jobs.CLIENTS, seed=seed)

    def train(self, updates: int) -> None:
        settings = LoopSettings(
            in_flight=2 * jobs.MERGE_EVERY,
            horizon=_FOREVER,
            evaluate_every=_FOREVER,
            max_staleness=updates,
            max_updates=updates,
            seed=self._seed,
        )
        sizes = [jobs.EXAMPLES] * jobs.CLIENTS
        recipe = FedBuff(jobs.MERGE_EVERY, staleness_exponent=0.0)
        run = Simulation(self._trainer, sizes, self._model, self._fleet, recipe, settings)
        run.run()
        self._model = run.engine.params.copy()

    def weights(self) -> list[jobs.Floats]:
        ends = np.cumsum([np.prod(shape) for shape in self._shapes])[:-1]
        parts = np.split(self._model, ends)
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]


class _SideBySide:
    """Federations of different seeds, each in a process; the weights are the first one's."""

    _weights: list[jobs.Floats]

    def __init__(self, job: jobs.Job, seeds: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for number in range(seeds):
            here, there = context.Pipe()
            context.Process(
                target=_serve, args=(there, job, jobs.SEED + number), daemon=True
            ).start()
            self._pipes.append(here)

    def train(self, updates: int) -> None:
        for pipe in self._pipes:
            pipe.send(updates // len(self._pipes))
        self._weights, *_ = [pipe.recv() for pipe in self._pipes]

    def weights(self) -> list[jobs.Floats]:
        return self._weights


def _serve(pipe: Connection, job: jobs.Job, seed: int) -> None:
    torch.set_num_threads(1)
    federation = _Federation(job, seed)
    while True:
        federation.train(pipe.recv())
        pipe.send(federation.weights())


def _main() -> None:
    torch.set_num_threads(1)
    parser = driver.arguments()
    parser.add_argument("--seeds", type=int, default=1, help="side by side")
    options = parser.parse_args()

    def start(job: jobs.Job) -> driver.Federation:
        return _Federation(job) if options.seeds == 1 else _SideBySide(job, options.seeds)

    driver.measure(options, asynclave.__version__, start)


if __name__ == "__main__":
    _main()
