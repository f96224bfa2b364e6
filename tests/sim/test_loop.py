from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fl_sim.cohort.base import Models, Task
from fl_sim.cohort.choice import trainer_for
from fl_sim.simulation.events import Event
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import deaths
from fl_sim.simulation.loop import LoopSettings, Simulation
from fl_sim.simulation.pace import Pace
from strategies.catalog import RECIPES, recipe_from
from strategies.recipe import Recipe
from strategies.recipes.async_wa import AsyncWA
from strategies.recipes.fedavg import FedAvg
from strategies.recipes.fedbuff import FedBuff
from strategies.update import Vector
from tests.support.simulation import fleet, initial, problem


def simulation(
    recipe: Recipe | None = None,
    *,
    clients: int = 8,
    devices: Fleet | None = None,
    backend: str = "numpy",
    pace: Pace | None = None,
    **settings: Any,
) -> Simulation:
    job = problem(clients)
    chosen = {
        "in_flight": clients,
        "horizon": 12.0,
        "evaluate_every": 1.0,
        "max_staleness": 1000,
        **settings,
    }
    loop = LoopSettings(**chosen)
    trainer = trainer_for(job, backend, initial(), loop.cohort_size)
    sizes = job.data.sizes().tolist()
    devices = devices or fleet(clients)
    recipe = recipe or AsyncWA(buffer_size=3)
    return Simulation(trainer, sizes, initial(), devices, recipe, loop, pace=pace)


@pytest.mark.parametrize("backend", ["numpy", "vmap", "flat"])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_the_digest_does_not_depend_on_who_is_trained_together(name: str, backend: str) -> None:
    fields = RECIPES[name].__dataclass_fields__
    options = {"buffer_size": 3} if "buffer_size" in fields else {}

    def digest(cohort_size: int) -> str:
        devices = fleet(8, dropout=0.1, dies_at=deaths(8, 0.3, 12.0, 1))
        run = simulation(
            recipe_from(name, **options), devices=devices, backend=backend, cohort_size=cohort_size
        )
        digest = run.run()
        assert run.updates > 5
        return digest

    assert len({digest(size) for size in (1, 3, 16)}) == 1


class ByClient:
    """Even clients take one step, odd ones six."""

    def steps(self, client: int, now: float) -> int:
        return 1 if client % 2 == 0 else 6


@pytest.mark.parametrize("backend", ["numpy", "vmap", "flat"])
def test_the_digest_does_not_depend_on_who_is_trained_together_at_any_pace(backend: str) -> None:
    def digest(cohort_size: int) -> str:
        return simulation(backend=backend, cohort_size=cohort_size, pace=ByClient()).run()

    assert len({digest(size) for size in (1, 3, 16)}) == 1
    assert digest(16) != simulation(backend=backend).run()


def test_a_task_takes_as_long_as_its_steps() -> None:
    devices = Fleet((3.0,) * 2, (1.0,) * 2, jitter=0.0)
    run = simulation(clients=2, devices=devices, horizon=7.5, pace=ByClient())
    seen = []
    take = run._take

    def observed(event: Event) -> None:
        seen.append((event.client, event.time))
        take(event)

    run._take = observed
    run.run()
    # One step of three is a third of the training, six are twice as much; the transfer is whole.
    assert seen == [(0, 2.0), (0, 4.0), (0, 6.0), (1, 7.0)]


def test_another_seed_gives_another_digest() -> None:
    assert simulation(in_flight=3, seed=1).run() != simulation(in_flight=3, seed=2).run()


def test_learns() -> None:
    run = simulation(horizon=40.0)
    run.run()
    assert run.evaluations[0].time == 0.0
    assert run.evaluations[-1].time == 40.0
    assert run.evaluations[-1].accuracy > run.evaluations[0].accuracy + 0.2


@pytest.mark.parametrize("name", ["async-wa", "fedasync", "dc-asgd", "asyncfeded", "area"])
def test_keeps_only_the_versions_that_somebody_trains_from(name: str) -> None:
    devices = fleet(30, dropout=0.2)
    run = simulation(
        recipe_from(name), clients=30, devices=devices, in_flight=4, cohort_size=2, horizon=30.0
    )
    most = 0
    handle = run._handle

    def observed(event: Event) -> None:
        nonlocal most
        handle(event)
        most = max(most, len(run.versions), len(run.engine.models))

    run._handle = observed
    run.run()
    assert run.engine.version > 50
    # Three tasks go on, and the next begins from the current version.
    assert 1 < most <= 4


def test_trains_nothing_that_is_never_delivered() -> None:
    class Counting:
        name = "counting"
        steps = 3
        trained = 0

        def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
            self.trained += len(tasks)
            for row in out:
                row.fill(0.001)

        def accuracies(self, models: Models) -> list[float]:
            return [0.5] * len(models)

    counting = Counting()
    devices = fleet(20, dropout=0.3, dies_at=deaths(20, 0.5, 10.0, 1))
    settings = LoopSettings(10, 10.0, 1.0, 1000, cohort_size=8)
    run = Simulation(counting, [5] * 20, initial(), devices, AsyncWA(), settings)
    run.run()
    assert run.outcomes["failed"] > 5
    assert counting.trained == run.updates == run.outcomes["accepted"]


class Diverging:
    """The fastest client's training gives no numbers."""

    name = "diverging"
    steps = 3

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        for task, row in zip(tasks, out, strict=True):
            row.fill(np.nan if task.client == 2 else 0.001)

    def accuracies(self, models: Models) -> list[float]:
        return [0.5] * len(models)


@pytest.mark.parametrize(
    "recipe", [FedAvg(buffer_size=3, over_selection=0.0), FedBuff(buffer_size=3)]
)
def test_a_run_goes_on_without_who_is_refused(recipe: Recipe) -> None:
    settings = LoopSettings(4, 20.0, 1.0, 1000)
    run = Simulation(Diverging(), [5] * 6, initial(), fleet(6), recipe, settings)
    run.run()
    assert run.outcomes["NONFINITE"] > 1
    assert run.participation[2] == 0
    assert run.engine.version > 3


def test_busy_time_is_that_of_tasks_under_way_in_rounds_and_without() -> None:
    devices = Fleet((1.0, 2.0, 4.0), (0.0,) * 3, jitter=0.0)

    def run(recipe: Recipe) -> Simulation:
        run = simulation(recipe, clients=3, devices=devices, horizon=8.0)
        run.run()
        return run

    # Who is done waits for the slowest, twice.
    assert run(FedAvg(buffer_size=3, over_selection=0.0)).busy_time == 2 * (1.0 + 2.0 + 4.0)
    # Rounds end at 2, 4, 6 and 8, and the slowest is late for the first and the third.
    first_two = run(FedAvg(buffer_size=2, over_selection=0.5))
    assert first_two.busy_time == 4 * (1.0 + 2.0) + 2 * 4.0
    assert first_two.outcomes == {"accepted": 8, "TOO_STALE": 2}
    assert run(AsyncWA(buffer_size=1)).busy_time == 3 * 8.0


def test_busy_time_ends_with_the_last_update_asked_for() -> None:
    devices = Fleet((1.0, 2.0), (0.0,) * 2, jitter=0.0)
    run = simulation(clients=2, devices=devices, max_updates=1)
    run.run()
    assert run.busy_time == 2.0


def test_a_buffer_that_waits_long_enough_is_merged_though_not_full() -> None:
    patient = simulation(FedBuff(buffer_size=8), clients=8, in_flight=2)
    waiting = simulation(FedBuff(buffer_size=8, max_wait=0.5), clients=8, in_flight=2)
    patient.run()
    waiting.run()
    assert waiting.engine.version > 2 * patient.engine.version


def test_stops_after_the_updates_asked_for() -> None:
    run = simulation(max_updates=17, horizon=1e6)
    run.run()
    assert run.updates == 17
    assert run.evaluations[-1].version == run.engine.version


def test_refuses_updates_that_are_too_stale_and_goes_on() -> None:
    run = simulation(max_staleness=2, horizon=40.0)
    run.run()
    assert run.outcomes["TOO_STALE"] > 0
    assert run.outcomes["accepted"] > 20
    assert np.isfinite(run.engine.published).all()
