"""Several seeds of one strategy; what an interrupted sweep has finished is not done again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path

import torch

from fl_protocol.codes import Code, ConfigInvalid
from fl_server.intake.limits import fitting_staleness
from fl_server.intake.spill import SpillFiles
from fl_sim.cohort.choice import trainer_for
from fl_sim.simulation.choices import check_windows, recipe_of, selector_of
from fl_sim.simulation.client_task import ClientTask, check_task
from fl_sim.simulation.config import ConfigSource, SimulationConfig, load_config
from fl_sim.simulation.evaluations import Evaluation, learning_curve
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import fleet_from, trace_of, windows_of
from fl_sim.simulation.intermittent import IntermittentFleet
from fl_sim.simulation.loop import LoopSettings, Simulation
from fl_sim.simulation.own_recipes import source_digest
from fl_sim.simulation.parallel import in_processes
from fl_sim.simulation.result import SeedResult, SimulationResult
from fl_sim.simulation.results_file import append, held, results_of
from fl_sim.simulation.room import check_room
from fl_sim.simulation.workload import Workload, check_data, workload_from, workload_of
from strategies.recipe import Recipe
from strategies.selection import jain_index

Progress = Callable[[int, float, Evaluation], None]
"""Told seed, share of its run gone, and the evaluation just made; 1 once, at its end."""


def simulate(
    config: ConfigSource = None,
    *,
    strategy: str | None = None,
    seeds: int | None = None,
    results: str | PathLike[str] | None = None,
    on_progress: Progress | None = None,
) -> SimulationResult:
    """Simulate every seed of a configuration.

    Parameters
    ----------
    config : SimulationConfig, str, PathLike or None
        What to simulate: a configuration, the path of its TOML file, or None for the defaults.
    strategy : str, optional
        Name of the recipe, instead of the configuration's.
    seeds : int, optional
        How many seeds, instead of the configuration's.
    results : str or PathLike, optional
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
        If the configuration does not fit together, or the results cannot be written; before any
        training.
    StorageFailed
        If another sweep writes to the same results.
    """
    config = _chosen(config, strategy, seeds)
    recipe = recipe_of(config)
    selector_of(config, config.run.first_seed)
    _check_files(config, recipe)
    path = None if results is None else Path(results)
    with held(path):
        done = finished(config, path)
        backend = next((run.backend for run in done.values()), None)
        missing = [seed for seed in config.run.all_seeds if seed not in done]
        check_data(config, missing)
        for run in _runs(config, recipe, missing, backend, on_progress):
            done[run.seed] = run
            append(path, run)
    return SimulationResult(
        config.strategy.name, tuple(done[seed] for seed in config.run.all_seeds)
    )


def simulate_task(
    task: ClientTask,
    config: ConfigSource = None,
    *,
    strategy: str | None = None,
    seeds: int | None = None,
    on_progress: Progress | None = None,
) -> SimulationResult:
    """Simulate every seed of a client task of one's own.

    Parameters
    ----------
    task : ClientTask
        Model, loss, data and local optimiser.
    config : SimulationConfig, str, PathLike or None
        Everything else: devices, strategy, dispatch, run, and of the section train the local
        steps, batch size, backend and cohort size. A seed is that of devices, initial weights,
        training and dispatch; the data stay as given.
    strategy, seeds : str, int, optional
        As for :func:`simulate`.
    on_progress : callable, optional
        Told of every evaluation.

    Returns
    -------
    SimulationResult
        Kept nowhere: no key tells one task from another.

    Raises
    ------
    ConfigInvalid, StrategyError
        If task and configuration do not fit together; before any training.
    """
    config = _chosen(config, strategy, seeds)
    recipe = recipe_of(config)
    selector_of(config, config.run.first_seed)
    _check_files(config, recipe)
    check_task(task, config)
    runs = _runs(config, recipe, list(config.run.all_seeds), None, on_progress, task)
    ordered = sorted(runs, key=lambda run: run.seed)
    return SimulationResult(config.strategy.name, tuple(ordered))


def finished(config: SimulationConfig, results: Path | None) -> dict[int, SeedResult]:
    """Return what a results file holds of a configuration and its strategy, by seed."""
    wanted = config.strategy.name
    source = source_digest(wanted)
    return {
        run.seed: run
        for run in results_of(results, config.key())
        if run.strategy == wanted and run.source == source
    }


def _chosen(config: ConfigSource, strategy: str | None, seeds: int | None) -> SimulationConfig:
    return load_config(config, {"strategy": {"name": strategy}, "run": {"seeds": seeds}})


def _check_files(config: SimulationConfig, recipe: Recipe) -> None:
    trace_of(config.devices)
    windows_of(config.devices)
    folder = _cache_folder(config, recipe)
    if folder is None:
        return
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"run.cache_folder: {folder} takes no file: {error.strerror}.",
        ) from None


def _cache_folder(config: SimulationConfig, recipe: Recipe) -> Path | None:
    """Return where a recipe keeps its caches on disk, None if it has none there."""
    drift = recipe.parts().drift
    return config.run.cache_folder if drift is not None and drift.kind == "disk" else None


def _runs(
    config: SimulationConfig,
    recipe: Recipe,
    seeds: list[int],
    backend: str | None,
    on_progress: Progress | None,
    task: ClientTask | None = None,
) -> Iterator[SeedResult]:
    """Yield the runs of seeds as they finish, all trained by one backend."""
    if not seeds:
        return
    _check_windows(config, recipe, seeds, task)
    if backend is None:
        backend = _backend_of(config, seeds[0], task)
    calls = [(config, recipe, seed, backend, task) for seed in seeds]
    workers = min(config.run.workers, len(seeds))
    if workers == 1:
        yield from (run_seed(*call, on_progress) for call in calls)
    else:
        yield from in_processes(run_seed, calls, workers, on_progress or (lambda *_: None))


def _check_windows(
    config: SimulationConfig, recipe: Recipe, seeds: list[int], task: ClientTask | None
) -> None:
    """Refuse windows that do not suit a seed: how long a run takes depends on its devices."""
    if config.devices.windows is None:
        return
    model_bytes, time = _workload(config, seeds[0], task).initial.nbytes, config.run.virtual_time
    for seed in seeds:
        fleet = fleet_from(config.devices, model_bytes=model_bytes, virtual_time=time, seed=seed)
        assert isinstance(fleet, IntermittentFleet)  # for it has windows
        check_windows(config, recipe, fleet, seed)


def _workload(config: SimulationConfig, seed: int, task: ClientTask | None) -> Workload:
    return workload_from(config, seed) if task is None else workload_of(task, config, seed)


def _backend_of(config: SimulationConfig, seed: int, task: ClientTask | None) -> str:
    """Return the backend of a configuration; if it has to be measured, here and once."""
    if config.train.backend != "auto":
        return config.train.backend
    torch.set_num_threads(1)
    workload = _workload(config, seed, task)
    return trainer_for(workload.problem, "auto", workload.initial, config.train.cohort_size).name


def run_seed(
    config: SimulationConfig,
    recipe: Recipe,
    seed: int,
    backend: str,
    task: ClientTask | None = None,
    on_progress: Progress | None = None,
) -> SeedResult:
    """Simulate one seed."""
    # More threads would split sums differently from machine to machine.
    torch.set_num_threads(1)
    # Files are read below: one that is changed while the seed runs counts as it was before.
    key = config.key() if task is None else ""
    source = source_digest(config.strategy.name)
    workload = _workload(config, seed, task)
    check_room(config, recipe, workload.initial.size)
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
        if on_progress is not None and evaluation.time < settings.horizon:
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
        disk=SpillFiles(_cache_folder(config, recipe)),
        roles=workload.roles,
    )
    started = time.perf_counter()
    digest = run.run()
    if on_progress is not None:
        on_progress(seed, 1.0, run.evaluations[-1])
    lifetime = fleet.lifetime(run.evaluations[-1].time)
    curve = learning_curve(run.evaluations, settings.horizon, config.run)
    return SeedResult(
        strategy=config.strategy.name,
        source=source,
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
        utilisation=run.busy_time / lifetime if lifetime else 0.0,
    )


def _loop_settings(
    config: SimulationConfig, recipe: Recipe, fleet: Fleet, seed: int
) -> LoopSettings:
    unit, section = fleet.median_task, config.run
    in_flight = config.devices.num_in_flight
    staleness = config.strategy.max_staleness
    if staleness is None:
        staleness = fitting_staleness(recipe.parts(), in_flight)
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
