"""Runs one strategy on the virtual devices and fills its history."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import cast

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg

from asynclave.run.federation import Federation
from asynclave.run.history import Evaluation, History
from fl_server.strategy import AsyncStrategy
from fl_server.strategy.events import Event, MergeEvent, UpdateEvent
from fl_sim.clock import VirtualClock
from fl_sim.grid import VirtualGrid

_NEVER = 10**9
_TIMEOUT = 1e6


def run_asynchronous(
    federation: Federation,
    grid: VirtualGrid,
    strategy: AsyncStrategy,
    history: History,
    on_event: Callable[[Event], None] | None = None,
) -> ArrayRecord:
    """Run an asynchronous strategy for the configured number of merges.

    `history` fills as the run goes on, so it is readable after an interruption.

    Returns
    -------
    ArrayRecord
        The published model of the last version.
    """
    recorded = _recorded(federation, grid.clock, history)

    def observe(event: Event) -> None:
        if isinstance(event, UpdateEvent):
            history.codes[event.code] += 1
            if event.accepted:
                history.staleness.append(event.staleness)
                history.participation[event.client] += 1
        elif isinstance(event, MergeEvent):
            history.digest = event.digest
        if on_event is not None:
            on_event(event)

    strategy.callbacks = (*strategy.callbacks, observe)
    started = time.perf_counter()
    try:
        result = strategy.start(
            grid=grid,
            initial_arrays=federation.initial_arrays(),
            num_rounds=federation.config.run.merges,
            timeout=_TIMEOUT,
            evaluate_fn=recorded,
        )
    finally:
        history.wall_seconds = time.perf_counter() - started
    return result.arrays


class _EnoughUpdates(Exception):
    """The baseline has used up its client updates."""


def run_synchronous(federation: Federation, history: History, updates: int) -> None:
    """Run Flower's own FedAvg on the same devices until it used as many client updates."""
    fleet = federation.config.devices
    cohort = max(2, round(fleet.clients * fleet.in_flight))
    grid = federation.grid()
    recorded = _recorded(federation, grid.clock, history)

    def evaluate(version: int, arrays: ArrayRecord) -> MetricRecord:
        history.codes["accepted"] = version * cohort
        metrics = recorded(version, arrays)
        if history.updates >= updates:
            raise _EnoughUpdates
        return metrics

    # FedAvg samples its cohorts with the global generator.
    random.seed(federation.config.run.seed)
    started = time.perf_counter()
    strategy = FedAvg(
        fraction_train=fleet.in_flight,
        fraction_evaluate=0.0,
        min_train_nodes=cohort,
        min_available_nodes=fleet.clients,
    )
    try:
        strategy.start(
            grid=grid,
            initial_arrays=federation.initial_arrays(),
            num_rounds=_NEVER,
            timeout=_TIMEOUT,
            evaluate_fn=evaluate,
        )
    except _EnoughUpdates:
        history.wall_seconds = time.perf_counter() - started


def _recorded(
    federation: Federation, clock: VirtualClock, history: History
) -> Callable[[int, ArrayRecord], MetricRecord]:
    evaluate = federation.evaluate_fn()

    def recorded(version: int, arrays: ArrayRecord) -> MetricRecord:
        metrics = evaluate(version, arrays)
        accuracy, loss = (cast(float, metrics[name]) for name in ("accuracy", "loss"))
        history.evaluations.append(Evaluation(clock.now(), version, accuracy, loss))
        return metrics

    return recorded
