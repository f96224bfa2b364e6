"""The jobs on the fast path of `fl_sim`: FedBuff on simulated devices, one process.

Stale updates are not discounted, so that the loss can be compared with that of plain averaging.
"""

from __future__ import annotations

import numpy as np
import torch

import asynclave
from benchmarks.peers import driver, jobs
from benchmarks.peers.network import network
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
    def __init__(self, job: jobs.Job) -> None:
        inputs, labels = jobs.training_data()
        data = ClientData(
            inputs, labels, np.arange(len(labels)), np.arange(jobs.CLIENTS + 1) * jobs.EXAMPLES
        )
        problem = Problem(
            data,
            (inputs[:1], labels[:1]),
            TrainSettings(jobs.LR, jobs.BATCH_SIZE, seed=jobs.SEED, steps=jobs.STEPS),
            lambda: network(job.name),
            job.widths,
        )
        self._model: Vector = np.concatenate([w.ravel() for w in jobs.initial_weights(job)])
        self._shapes = [weight.shape for weight in jobs.initial_weights(job)]
        self._trainer = trainer_for(problem, "auto", self._model, LoopSettings.cohort_size)
        compute = tuple(speeds("lognormal", jobs.CLIENTS, 1.2, jobs.SEED).tolist())
        self._fleet = Fleet(compute, (0.1,) * jobs.CLIENTS, seed=jobs.SEED)

    def train(self, updates: int) -> None:
        settings = LoopSettings(
            in_flight=2 * jobs.MERGE_EVERY,
            horizon=_FOREVER,
            evaluate_every=_FOREVER,
            max_staleness=updates,
            max_updates=updates,
            seed=jobs.SEED,
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    driver.measure(driver.arguments().parse_args(), asynclave.__version__, _Federation)
