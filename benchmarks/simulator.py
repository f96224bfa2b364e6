"""The simulator against a plain torch loop on the same work: CPU time, one thread.

``python -m benchmarks.simulator`` prints one JSON object: a figure per target first, then what it
comes from. A client update is 80 examples of 784
features, batch 16, one pass: 5 steps of SGD. The loop is ``fl_client.trainer`` as a live client
runs it; ``engine`` is the cohort trainer alone with the same 16 clients in every call,
``engine_of_all`` with the next 16 of 100, whose data no cache near the core holds; ``simulation``
is a whole FedBuff run over 100 clients with scheduling, drop-outs, merging and evaluation.
"""

from __future__ import annotations

import argparse
import itertools
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

from fl_client.optimiser import SGD
from fl_client.trainer import Batch, TrainSettings, task_seed, train
from fl_sim.cohort.base import ClientData, Task
from fl_sim.cohort.choice import Problem, trainer_for
from fl_sim.simulation import models
from fl_sim.simulation.availability import windows_of_duty
from fl_sim.simulation.churn import Sessions, stationary
from fl_sim.simulation.config import load_config
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import deaths, speeds
from fl_sim.simulation.intermittent import IntermittentFleet
from fl_sim.simulation.loop import LoopSettings, Simulation
from fl_sim.simulation.parallel import in_processes
from fl_sim.simulation.sweep import simulate
from fl_sim.simulation.windows import scheduler_for
from strategies.recipes.fedbuff import FedBuff
from strategies.update import Vector

_EXAMPLES, _CLIENTS, _COHORT, _UPDATES, _ROUNDS = 80, 100, 16, 96, 5
_SIMULATED = 20 * _UPDATES
_JOBS = {
    "logistic": ("logistic", 1, ("numpy", "vmap", "flat")),
    "mlp": ("mlp", 64, ("numpy", "vmap", "flat")),
    "cnn": ("cnn", 1, ("vmap", "flat")),
    "mlp_204k": ("mlp", 256, ("vmap", "flat")),
    "mlp_407k": ("mlp", 512, ("numpy", "vmap", "flat")),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="only the run of a million updates")
    parser.add_argument(
        "--availability", action="store_true", help="only the scheduler, by when clients are there"
    )
    parser.add_argument("--jobs", nargs="+", choices=_JOBS, help="only these, against the loop")
    arguments = parser.parse_args()
    if arguments.large:
        measured: dict[str, Any] = logistic_run(100_000, 1000, 1_000_000)
    elif arguments.availability:
        measured = _by_availability(10_000)
    elif arguments.jobs:
        torch.set_num_threads(1)
        measured = {name: _job(*_JOBS[name]) for name in arguments.jobs}
    else:
        measured = _figures()
    json.dump(measured, sys.stdout, indent=2)
    print()


def cpu_ms_per_update(job: str) -> float:
    """Return the CPU milliseconds that the whole simulator spends on an update.

    Parameters
    ----------
    job : {"mlp", "logistic"}
        What is trained; see the top of this file.
    """
    torch.set_num_threads(1)
    model, hidden, backends = _JOBS[job]
    work = _simulation(*_problem(model, hidden, _CLIENTS), backends[0])
    return round(_cpu_seconds({job: (work, _SIMULATED)})[job] * 1e3, 4)


def _figures() -> dict[str, Any]:
    """One figure per target, then what they come from."""
    torch.set_num_threads(1)
    heap = _bare_heap(25_000)
    calls = [(clients, full) for clients in (100_000, 1_000_000) for full in (False, True)]
    # One after the other, each in a process of its own, for the sake of the peak of memory.
    schedulers = list(in_processes(_scheduler, calls, 1, print))
    jobs = {name: _job(*job) for name, job in _JOBS.items()}
    clients = _scaling((100, 100_000))
    return {
        "scheduler_events_per_second": schedulers[1]["events_per_second"],
        "scheduler_peak_mib": {run["clients"]: run["peak_mib"] for run in schedulers[1::2]},
        "engine_ms_per_update": {name: jobs[name]["engine_ms"] for name in ("mlp", "logistic")},
        **{
            figure: {name: jobs[name][figure] for name in ("mlp", "logistic")}
            for figure in ("simulation_times_engine", "simulation_times_engine_of_all")
        },
        "any_module_times_the_loop": {name: job["any_module"] for name, job in jobs.items()},
        "ms_at_100000_clients_times_100": round(clients[100_000] / clients[100], 2),
        "two_workers_times_one": _workers(),
        "bare_heap_events_per_second": heap,
        "scheduler_by_availability": _by_availability(10_000),
        "scheduler": schedulers,
        "jobs": jobs,
        "logistic_ms_by_number_of_clients": clients,
    }


def logistic_run(clients: int, in_flight: int, updates: int, tell: object = None) -> dict[str, Any]:
    """Run the logistic job once; best in a process of its own, for the sake of the peak of memory.

    Parameters
    ----------
    clients : int
        Number of clients.
    in_flight : int
        How many of them are at work at a time.
    updates : int
        Updates after which the run ends.
    tell : object
        Unused; `in_processes` passes it.
    """
    torch.set_num_threads(1)
    problem, base = _problem("logistic", 1, clients)
    started, cpu = time.perf_counter(), time.process_time()
    simulation = _simulation(problem, base, "numpy", in_flight=in_flight, updates=updates)()
    return {
        "updates": updates,
        "clients": clients,
        "in_flight": in_flight,
        "wall_seconds": round(time.perf_counter() - started),
        "cpu_ms_per_update": round((time.process_time() - cpu) / updates * 1e3, 4),
        "trained_together": round(simulation.updates / simulation.cohorts, 1),
        "peak_mib": _peak_mib(),
    }


def _workers() -> float:
    """How many times faster, on the wall clock, two seeds are side by side."""

    def seconds(workers: int) -> float:
        config = load_config(
            None,
            {
                "train": {"model": "mlp", "batch_size": 16},
                "run": {"virtual_time": 60.0, "seeds": 2, "workers": workers},
            },
        )
        started = time.perf_counter()
        simulate(config)
        return time.perf_counter() - started

    return round(seconds(1) / seconds(2), 2)


def _peak_mib() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


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
        TrainSettings(SGD(0.05), 16, seed=1, steps=5),
        lambda: models.build(model, (784,), 10, hidden),
        models.dense_sizes(model, (784,), 10, hidden),
    )
    return problem, models.seeded(1, model, (784,), 10, hidden)


def _job(model: str, hidden: int, backends: tuple[str, ...]) -> dict[str, Any]:
    problem, base = _problem(model, hidden, _CLIENTS)
    contenders = {"loop": (_loop(problem), _UPDATES)}
    for backend in backends:
        contenders[f"engine_{backend}"] = (_engine(problem, base, backend), _UPDATES)
    name = f"simulation_{backends[0]}"
    contenders[name] = (_simulation(problem, base, backends[0]), _SIMULATED)
    contenders["engine_of_all"] = (_engine(problem, base, backends[0], _CLIENTS), _UPDATES)
    seconds = _cpu_seconds(contenders)
    engine = seconds[f"engine_{backends[0]}"]
    modules = [seconds[f"engine_{kind}"] for kind in ("vmap", "flat")]
    return {
        "parameters": base.size,
        "engine_ms": round(engine * 1e3, 3),
        "simulation_times_engine": round(seconds[name] / engine, 2),
        "simulation_times_engine_of_all": round(seconds[name] / seconds["engine_of_all"], 2),
        "any_module": round(seconds["loop"] / min(modules), 2),
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


def _engine(
    problem: Problem, base: Vector, backend: str, clients: int = _COHORT
) -> Callable[[], object]:
    """Cohorts of the first so many clients, by turns."""
    trainer = trainer_for(problem, backend, base, _COHORT)
    rows = list(np.empty((_COHORT, base.size), np.float32))
    numbers = itertools.count()

    def work() -> None:
        for _ in range(_UPDATES // _COHORT):
            cohort = itertools.islice(numbers, _COHORT)
            trainer.train([Task(base, n % clients, n // clients) for n in cohort], rows)

    return work


def _simulation(
    problem: Problem,
    base: Vector,
    backend: str,
    in_flight: int = 32,
    updates: int = _SIMULATED,
) -> Callable[[], Simulation]:
    clients = problem.data.num_clients
    trainer = trainer_for(problem, backend, base, _COHORT)
    fleet = _fleet(clients, dropout=0.05)
    settings = LoopSettings(in_flight, 1e9, 1.0, 10_000, max_updates=updates, cohort_size=_COHORT)
    sizes = problem.data.sizes().tolist()

    def work() -> Simulation:
        simulation = Simulation(trainer, sizes, base, fleet, FedBuff(), settings)
        simulation.run()
        return simulation

    return work


def _fleet(clients: int, **options: Any) -> Fleet:
    compute = tuple(speeds("lognormal", clients, 1.2, 1).tolist())
    return Fleet(compute, (0.1,) * clients, seed=1, **options)


def _scheduler(clients: int, full: bool, tell: object = None) -> dict[str, Any]:
    """Events per second with a quarter of the clients at work; `full` adds all device features."""
    options: dict[str, Any] = {}
    if full:
        options = {
            "dropout": 0.05,
            "duty": (0.7,) * clients,
            "period": 10.0,
            "dies_at": deaths(clients, 0.2, 100.0, 1),
        }
    return {
        "clients": clients,
        "every_feature": full,
        "events_per_second": _events_per_second(_fleet(clients, **options), clients // 4),
        "peak_mib": _peak_mib(),
    }


def _by_availability(clients: int) -> dict[str, dict[str, int]]:
    """Events per second with a quarter, or all, of the clients at work, as far as they are there.

    Clients are there 70% of the time, save those that always are, on cycles of ten median tasks
    that are spread evenly, or sessions as long on average.
    """
    windows = windows_of_duty(
        (0.7,) * clients, 10.0 * np.random.default_rng(1).random(clients), 10.0
    )
    sessions = Sessions(stationary(clients, 7.0, 3.0, 1), 7.0, 3.0, 1)
    common = vars(_fleet(clients, dropout=0.05))
    given = {name: value for name, value in common.items() if not name.startswith("_")}
    fleets = {
        "always": Fleet(**given),
        "windows": IntermittentFleet(**given, windows=windows),
        "churn": IntermittentFleet(**given, sessions=sessions),
        "both": IntermittentFleet(**given, windows=windows, sessions=sessions),
    }
    return {
        name: {
            "a_quarter": _events_per_second(fleet, clients // 4, 200_000),
            "all": _events_per_second(fleet, clients, 200_000),
        }
        for name, fleet in fleets.items()
    }


def _events_per_second(fleet: Fleet, in_flight: int, count: int = 500_000) -> int:
    scheduler = scheduler_for(fleet, in_flight, 1)
    scheduler.fill()
    started = time.process_time()
    for number in range(count):
        scheduler.next()
        if number % 10 == 0:
            scheduler.advance(scheduler.version + 1)
        scheduler.fill()
    return round(count / (time.process_time() - started))


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
