"""What all drivers share: warm up, check that the model learns, measure, print one line."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Protocol

from benchmarks.peers.jobs import JOBS, Floats, Job, initial_weights, training_loss
from benchmarks.peers.processes import tree_cpu_seconds


class Federation(Protocol):
    """A simulated federation that can be trained on and on."""

    def train(self, updates: int) -> None:
        """Train until this many more client updates have been made."""
        ...

    def weights(self) -> list[Floats]:
        """Return the global model, shaped as `jobs.initial_weights`."""
        ...


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the arguments every driver takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", choices=JOBS, required=True)
    parser.add_argument("--warm-up", type=int, required=True, help="updates before measuring")
    parser.add_argument("--updates", type=int, required=True, help="updates measured")
    return parser


def measure(options: argparse.Namespace, version: str, start: Callable[[Job], Federation]) -> None:
    """Run one job on one simulator and print the figures as one line of JSON.

    The warm-up loads what is loaded lazily and shows how far the model gets in as many updates as
    everywhere else. CPU time is that of this process and of all processes it started.

    Raises
    ------
    SystemExit
        If the model did not learn: the measured work was not the job.
    """
    job = JOBS[options.job]
    losses = [training_loss(initial_weights(job))]
    federation = start(job)
    federation.train(options.warm_up)
    losses.append(training_loss(federation.weights()))
    cpu, wall = tree_cpu_seconds(os.getpid()), time.perf_counter()
    federation.train(options.updates)
    wall = time.perf_counter() - wall
    cpu = tree_cpu_seconds(os.getpid()) - cpu
    losses.append(training_loss(federation.weights()))
    if not losses[0] > losses[1] > losses[2]:
        raise SystemExit(f"the model does not learn: losses {losses}")
    figures = {
        "version": version,
        "cpu_ms": 1e3 * cpu / options.updates,
        "updates_per_second": options.updates / wall,
        "losses": losses,
    }
    print(json.dumps(figures), flush=True)
