"""Several seeds of one strategy; what an interrupted sweep has finished is not done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from fl_protocol.codes import Code, ConfigInvalid
from fl_server.intake.spill import SpillFiles
from fl_sim.cohort.choice import trainer_for
from fl_sim.simulation.config import SimulationConfig, StrategySection
from fl_sim.simulation.evaluations import Evaluation
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import fleet_from
from fl_sim.simulation.loop import LoopSettings, Simulation
from fl_sim.simulation.parallel import in_processes
from fl_sim.simulation.result import SeedResult, SimulationResult
from fl_sim.simulation.workload import workload_from
from strategies.catalog import RECIPES, recipe_from
from strategies.recipe import Recipe
from strategies.recipes.async_wa import AsyncWA, buffer_size_for
from strategies.selection import (
    Selector,
    TaskHistory,
    jain_index,
    policy_from,
    selector_for,
)
from strategies.window import Buffer

Progress = Callable[[int, float, Evaluation], None]
"""Told seed, share of the virtual time gone, and the evaluation just made."""

# Uploads of one client for every upload of a client so slow that it is refused as too stale.
_SLOWEST = 50
_LEAST_STALENESS = 1000


def simulate(
    config: SimulationConfig,
    *,
    results: Path | None = None,
    on_progress: Progress | None = None,
) -> SimulationResult:
    """Simulate every seed of a configuration.

    Parameters
    ----------
    config : SimulationConfig
        What to simulate.
    results : Path, optional
        JSON lines file: finished (strategy, seed) pairs of the same configuration are taken from
        it, others are added as they finish.
    on_progress : callable, optional
        Told of every evaluation.

    Returns
    -------
    SimulationResult

    Raises
    ------
    ConfigInvalid, StrategyError
        If the configuration does not fit together; before any training.
    """
    recipe = recipe_of(config)
    selector_of(config, config.run.first_seed)
    done = _finished(results, config, recipe.name)
    first = config.run.first_seed
    seeds = range(first, first + config.run.seeds)
    backend = next((run.backend for run in done.values()), None)
    missing = [seed for seed in seeds if seed not in done]
    for run in _runs(config, recipe, missing, backend, on_progress):
        done[run.seed] = run
        _append(results, run)
    return SimulationResult(recipe.name, tuple(done[seed] for seed in seeds))


def _runs(
    config: SimulationConfig,
    recipe: Recipe,
    seeds: list[int],
    backend: str | None,
    on_progress: Progress | None,
) -> Iterator[SeedResult]:
    """Yield the runs of seeds as they finish, all trained by one backend."""
    if not seeds:
        return
    if backend is None:
        backend = _backend_of(config, seeds[0])
    calls = [(config, recipe, seed, backend) for seed in seeds]
    workers = min(config.run.workers, len(seeds))
    if workers == 1:
        yield from (run_seed(*call, on_progress) for call in calls)
    else:
        yield from in_processes(run_seed, calls, workers, on_progress or (lambda *_: None))


def _backend_of(config: SimulationConfig, seed: int) -> str:
    """Return the backend of a configuration; if it has to be measured, here and once."""
    if config.train.backend != "auto":
        return config.train.backend
    torch.set_num_threads(1)
    workload = workload_from(config, seed)
    return trainer_for(workload.problem, "auto", workload.initial, config.train.cohort_size).name


def recipe_of(config: SimulationConfig) -> Recipe:
    """Return the configured recipe.

    Raises
    ------
    UnknownRecipe, BadOption
        If there is no such recipe or option.
    ConfigInvalid
        If a buffer of that size can never fill.
    """
    section, devices = config.strategy, config.devices
    options: dict[str, Any] = dict(section.options.get(section.name, {}))
    size = _buffer_size(section, devices.num_in_flight)
    if size is not None:
        options.setdefault("buffer_size", size)
    recipe = recipe_from(section.name, **options)
    window = recipe.parts().window
    if isinstance(window, Buffer) and window.max_wait is None and window.size > devices.clients:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"strategy.buffer_size: a buffer of {window.size} never fills with "
            f"devices.clients = {devices.clients}; choose a smaller one.",
        )
    return recipe


def selector_of(config: SimulationConfig, seed: int) -> Selector | None:
    """Return what chooses the clients of one seed; None for the uniform draw.

    Raises
    ------
    UnknownPolicy, BadOption
        If there is no such policy or option.
    """
    section = config.dispatch
    policy = policy_from(section.policy, **section.options.get(section.policy, {}))
    return selector_for(policy, seed, TaskHistory(section.smoothing, section.recent))


def run_seed(
    config: SimulationConfig,
    recipe: Recipe,
    seed: int,
    backend: str,
    on_progress: Progress | None = None,
) -> SeedResult:
    """Simulate one seed."""
    # More threads would split sums differently from machine to machine.
    torch.set_num_threads(1)
    # The trace is read below: a file that is changed while the seed runs counts as it was before.
    key = config.key()
    workload = workload_from(config, seed)
    scores = workload.rare_shares if config.devices.slow_hold_rare else None
    virtual_time = config.run.virtual_time
    fleet = fleet_from(
        config.devices,
        model_bytes=workload.initial.nbytes,
        virtual_time=virtual_time,
        seed=seed,
        scores=scores,
    )
    size = config.train.cohort_size
    trainer = trainer_for(workload.problem, backend, workload.initial, size)
    settings = _loop_settings(config, recipe, fleet, seed)

    def observe(evaluation: Evaluation) -> None:
        if on_progress is not None:
            on_progress(seed, evaluation.time / settings.horizon, evaluation)

    sizes = workload.problem.data.sizes().tolist()
    run = Simulation(
        trainer,
        sizes,
        workload.initial,
        fleet,
        recipe,
        settings,
        observe,
        selector=selector_of(config, seed),
        disk=SpillFiles(config.run.cache_folder),
    )
    started = time.perf_counter()
    digest = run.run()
    unit = fleet.median_task
    curve = [(point.time / unit, point.accuracy) for point in run.evaluations]
    return SeedResult(
        strategy=recipe.name,
        seed=seed,
        config=key,
        backend=trainer.name,
        final_accuracy=curve[-1][1],
        time_to_target=_first(curve, config.run.target_accuracy),
        updates=run.updates,
        versions=run.engine.version,
        outcomes=dict(sorted(run.outcomes.items())),
        fairness=jain_index(run.participation),
        wall_seconds=time.perf_counter() - started,
        digest=digest,
        accuracies=curve,
        utilisation=run.busy_time / fleet.lifetime(run.evaluations[-1].time),
    )


def read_results(path: Path) -> list[SeedResult]:
    """Read a results file; a last line cut short by an interruption is left out."""
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            runs.append(SeedResult(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return runs


def _buffer_size(section: StrategySection, in_flight: int) -> int | None:
    """Return K as the live strategies choose it; None if the recipe has no such option."""
    kind = RECIPES.get(section.name)
    options = {} if kind is None else {field.name: field.default for field in fields(kind)}
    if "buffer_size" not in options:
        return None
    if section.buffer_size is not None:
        return section.buffer_size
    if section.name == AsyncWA.name:
        return buffer_size_for(in_flight)
    default = options["buffer_size"]
    return max(1, min(default, in_flight // 2)) if isinstance(default, int) else None


def _loop_settings(
    config: SimulationConfig, recipe: Recipe, fleet: Fleet, seed: int
) -> LoopSettings:
    unit, section = fleet.median_task, config.run
    in_flight = config.devices.num_in_flight
    staleness = config.strategy.max_staleness
    if staleness is None:
        per_round = in_flight / recipe.parts().uploads_per_merge
        staleness = max(_LEAST_STALENESS, round(_SLOWEST * per_round))
    return LoopSettings(
        in_flight=in_flight,
        horizon=section.virtual_time * unit,
        evaluate_every=section.evaluate_every * unit,
        max_staleness=staleness,
        max_updates=section.max_updates,
        cohort_size=config.train.cohort_size,
        seed=seed,
    )


def _first(curve: list[tuple[float, float]], target: float | None) -> float | None:
    if target is None:
        return None
    return next((when for when, accuracy in curve if accuracy >= target), None)


def _finished(
    results: Path | None, config: SimulationConfig, strategy: str
) -> dict[int, SeedResult]:
    if results is None or not results.exists():
        return {}
    key = config.key()
    return {
        run.seed: run
        for run in read_results(results)
        if run.config == key and run.strategy == strategy
    }


def _append(results: Path | None, run: SeedResult) -> None:
    if results is None:
        return
    results.parent.mkdir(parents=True, exist_ok=True)
    torn = results.exists() and not results.read_bytes().endswith(b"\n")
    with results.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(run.row()) + "\n")
