"""The simulator against a plain torch loop on the same work: CPU time, one thread.

``python -m benchmarks.simulator`` prints one JSON object. A client update is 80 examples of 784
features, batch 16, one pass: 5 steps of SGD. The loop is ``fl_client.trainer`` as a live client
runs it; ``engine`` is the cohort trainer alone, ``simulation`` a whole FedBuff run with
scheduling, drop-outs, merging and evaluation.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from heapq import heapify, heapreplace
from typing import Any

import numpy as np
import torch

from fl_client.trainer import Batch, TrainSettings, task_seed, train
from fl_sim.cohort.base import ClientData, Task
from fl_sim.cohort.choice import Problem, trainer_for
from fl_sim.simulation import models
from fl_sim.simulation.fleet import Fleet, deaths, speeds
from fl_sim.simulation.loop import LoopSettings, Simulation
from fl_sim.simulation.scheduler import Scheduler
from strategies.recipes.fedbuff import FedBuff
from strategies.update import Vector

_EXAMPLES, _COHORT, _UPDATES, _ROUNDS = 80, 16, 96, 5
_SIMULATED = 5 * _UPDATES
_JOBS = {
    "logistic": ("logistic", 1, ("numpy", "vmap", "flat")),
    "mlp": ("mlp", 64, ("numpy", "vmap", "flat")),
    "cnn": ("cnn", 1, ("vmap", "flat")),
    "mlp_407k": ("mlp", 512, ("numpy", "vmap", "flat")),
}


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "bare_heap_events_per_second": _bare_heap(25_000),
        "scheduler": [_scheduler(100_000, full=full) for full in (False, True)],
    }
    for name, (model, hidden, backends) in _JOBS.items():
        figures[name] = _job(model, hidden, backends)
    figures["logistic_ms_by_number_of_clients"] = _scaling((100, 100_000))
    json.dump(figures, sys.stdout, indent=2)
    print()


def _problem(model: str, hidden: int, num_clients: int) -> tuple[Problem, Vector]:
    rng = np.random.default_rng(1)
    data = ClientData(
        rng.random((4000, 784), dtype=np.float32),
        rng.integers(0, 10, 4000),
        rng.integers(0, 4000, num_clients * _EXAMPLES),
        np.arange(num_clients + 1) * _EXAMPLES,
    )
    problem = Problem(
        data,
        (data.inputs[:1000], data.labels[:1000]),
        TrainSettings(0.05, 16, seed=1, steps=5),
        lambda: models.build(model, (784,), 10, hidden),
        models.dense_sizes(model, (784,), 10, hidden),
    )
    return problem, models.seeded(1, model, (784,), 10, hidden)


def _job(model: str, hidden: int, backends: tuple[str, ...]) -> dict[str, Any]:
    problem, base = _problem(model, hidden, 100)
    contenders = {"loop": (_loop(problem), _UPDATES)}
    for backend in backends:
        contenders[f"engine_{backend}"] = (_engine(problem, base, backend), _UPDATES)
    name = f"simulation_{backends[0]}"
    contenders[name] = (_simulation(problem, base, backends[0]), _SIMULATED)
    seconds = _cpu_seconds(contenders)
    return {
        "parameters": base.size,
        "ms_per_update": {k: round(v * 1e3, 3) for k, v in seconds.items()},
        "times_the_loop": {k: round(seconds["loop"] / v, 2) for k, v in seconds.items()},
    }


def _loop(problem: Problem) -> Callable[[], object]:
    model, data = problem.model(), problem.data
    batches = [
        Batch(torch.from_numpy(data.inputs[rows]), torch.from_numpy(data.labels[rows]))
        for rows in map(data.of, range(_COHORT))
    ]
    start = {key: value.clone() for key, value in model.state_dict().items()}

    def work() -> None:
        for number in range(_UPDATES):
            model.load_state_dict(start)
            client = number % _COHORT
            train(model, batches[client], problem.settings, task_seed(1, str(client), number))
            models.initial_model(model)

    return work


def _engine(problem: Problem, base: Vector, backend: str) -> Callable[[], object]:
    trainer = trainer_for(problem, backend, base, _COHORT)
    rows = list(np.empty((_COHORT, base.size), np.float32))

    def work() -> None:
        for version in range(_UPDATES // _COHORT):
            trainer.train([Task(base, client, version) for client in range(_COHORT)], rows)

    return work


def _simulation(problem: Problem, base: Vector, backend: str) -> Callable[[], object]:
    clients = problem.data.num_clients
    trainer = trainer_for(problem, backend, base, _COHORT)
    fleet = _fleet(clients, dropout=0.05)
    settings = LoopSettings(32, 1e9, 1.0, 10_000, max_updates=_SIMULATED, cohort_size=_COHORT)
    sizes = problem.data.sizes().tolist()

    def work() -> None:
        Simulation(trainer, sizes, base, fleet, FedBuff(), settings).run()

    return work


def _fleet(clients: int, **options: Any) -> Fleet:
    compute = tuple(speeds("lognormal", clients, 1.2, 1).tolist())
    return Fleet(compute, (0.1,) * clients, seed=1, **options)


def _scheduler(clients: int, *, full: bool, count: int = 500_000) -> dict[str, Any]:
    """Events per second with every client at work; `full` adds all device features."""
    options: dict[str, Any] = {}
    if full:
        options = {
            "dropout": 0.05,
            "duty": (0.7,) * clients,
            "period": 10.0,
            "dies_at": deaths(clients, 0.2, 100.0, 1),
        }
    scheduler = Scheduler(_fleet(clients, **options), clients // 4, 1)
    scheduler.fill()
    started = time.process_time()
    for number in range(count):
        scheduler.next()
        if number % 10 == 0:
            scheduler.advance(scheduler.version + 1)
        scheduler.fill()
    seconds = time.process_time() - started
    return {
        "clients": clients,
        "every_feature": full,
        "events_per_second": round(count / seconds),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _bare_heap(in_flight: int, count: int = 500_000) -> int:
    """Events per second of nothing but a heap with as many entries: the floor in Python."""
    heap = [(due, 0, 0) for due in speeds("lognormal", in_flight, 1.2, 1).tolist()]
    heapify(heap)
    started = time.process_time()
    for number in range(count):
        heapreplace(heap, (heap[0][0] + 1.0, number, 0))
    return round(count / (time.process_time() - started))


def _scaling(numbers: tuple[int, ...]) -> dict[int, float]:
    """CPU milliseconds per update of a whole logistic run, by number of clients."""

    def contender(clients: int) -> tuple[Callable[[], object], int]:
        problem, base = _problem("logistic", 1, clients)
        return _simulation(problem, base, "numpy"), _SIMULATED

    seconds = _cpu_seconds({str(clients): contender(clients) for clients in numbers})
    return {clients: round(seconds[str(clients)] * 1e3, 4) for clients in numbers}


def _cpu_seconds(
    contenders: Mapping[str, tuple[Callable[[], object], int]],
) -> dict[str, float]:
    """Median CPU time per update; every contender once per round, after an untimed round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(_ROUNDS + 1):
        for name, (work, updates) in contenders.items():
            started = time.process_time()
            work()
            if round_number:
                seconds[name].append((time.process_time() - started) / updates)
    return {name: statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
