"""The fast path and unmodified Flower apps on virtual time give the same models.

Both take data, model, devices and recipe from one configuration.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context

from fl_client.app import LocalData, make_client_app
from fl_client.trainer import Batch
from fl_protocol.codes import Code
from fl_server.intake.limits import fitting_limits, fitting_staleness
from fl_server.strategy import AsyncStrategy, AsyncWA, FedAsync, FedBuff
from fl_sim.cohort.choice import trainer_for
from fl_sim.grid import FIRST_NODE_ID, VirtualGrid
from fl_sim.simulation.choices import recipe_of, selector_of
from fl_sim.simulation.config import SimulationConfig
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import fleet_from
from fl_sim.simulation.loop import LoopSettings, Simulation
from fl_sim.simulation.sweep import simulate
from fl_sim.simulation.workload import Workload, workload_from
from strategies.catalog import RECIPES, recipe_from
from strategies.layout import Layout
from tests.support.federation import Recorder, client_app, initial_arrays, partition

CLIENTS, VERSIONS, SEED = 8, 20, 1
DROP_IN = {
    "fedbuff": lambda **options: FedBuff(buffer_size=3, **options),
    "fedasync": FedAsync,
    "async-wa": lambda **options: AsyncWA(buffer_size=3, **options),
}
# Long tasks: the live server looks for nodes once a second, and after a failure lets them rest
# for a second or more, which is to be little beside a task.
SECONDS = 5000.0
FAILURES = {"dropout": 0.2, "death_rate": 0.3}
DEVICES: dict[str, dict[str, Any]] = {
    "pareto": {"speed": "pareto", "sigma": 0.6},
    "bandwidth": {"bandwidth_mbps": 1e-4},
    "duty cycle": {"duty_cycle": 0.6, "period": 3.0},
    "drop-outs": {"dropout": 0.2},
    "deaths": {"death_rate": 0.4},
    "trace": {"speed": "trace", **FAILURES},
    "windows": {},
    "windows that repeat": {"windows_period": 4 * SECONDS},
    "churn": {"session": 4.0, "absence": 1.5},
    "late joiners": {"join_rate": 0.6},
    "churn beside windows": {"windows_period": 4 * SECONDS, "session": 6.0, "absence": 1.0},
    "churn beside a duty cycle": {
        "duty_cycle": 0.8,
        "period": 3.0,
        "session": 8.0,
        "absence": 1.0,
        "join_rate": 0.3,
        "death_rate": 0.2,
    },
    "everything": {
        "speed": "pareto",
        "sigma": 0.6,
        "bandwidth_mbps": 1e-4,
        "duty_cycle": 0.7,
        "period": 3.0,
        **FAILURES,
    },
}
TRACE = """\
client,compute,network,duty_cycle
0,3500,2e-4,0.9
1,5500,1.2e-4,0.7
2,2000,4e-4,0.8
3,14500,1e-4,0.6
4,25000,1.5e-4,1.0
5,8000,5e-5,0.75
6,4500,3e-4,0.5
7,16500,1e-4,0.85
"""
# Some windows are shorter than a task; client 5 joins late, and client 6 leaves soon.
WINDOWS = """\
client,start,end
0,0,{end}
1,0,7000
1,9000,{end}
2,3000,{end}
3,0,12000
3,14000,{end}
4,0,15000
4,17000,{end}
5,12000,{end}
6,0,6000
7,1000,{end}
"""


def configured(name: str = "fedbuff", **sections: dict[str, Any]) -> SimulationConfig:
    return SimulationConfig.model_validate(
        {
            "train": {"hidden": 8, "local_steps": 3, "cohort_size": 4},
            # Rounds of everybody: where there is a choice, each way draws clients of its own.
            "strategy": {"name": name, "buffer_size": 6 if name == "fedavg" else 3},
            "run": {"virtual_time": 5.0},
            **sections,
            "devices": {"clients": CLIENTS, "sigma": 0.8, **sections.get("devices", {})},
        }
    )


class Both:
    """One configuration, run in both ways."""

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config
        self.work: Workload = workload_from(config, SEED)
        self.fleet: Fleet = fleet_from(
            config.devices,
            model_bytes=self.work.initial.nbytes,
            virtual_time=config.run.virtual_time,
            seed=SEED,
            scores=self.work.rare_shares if config.devices.slow_hold_rare else None,
        )
        self.recorder = Recorder()

    def through_flower(self, strategy: AsyncStrategy) -> np.ndarray:
        problem = self.work.problem

        def load(context: Context) -> LocalData:
            rows = problem.data.of(partition(context))
            inputs, labels = problem.data.inputs[rows], problem.data.labels[rows]
            batch = Batch(torch.from_numpy(inputs), torch.from_numpy(labels))
            return LocalData(batch, batch)

        arrays = {key: value.numpy() for key, value in problem.model().state_dict().items()}
        initial = Layout.of(arrays).unflatten(self.work.initial, {})
        strategy.callbacks = (self.recorder,)
        result = strategy.start(
            VirtualGrid(
                make_client_app(load, problem.model, settings=problem.settings), CLIENTS, self.fleet
            ),
            ArrayRecord({key: Array(array) for key, array in initial.items()}),
            num_rounds=VERSIONS,
            timeout=1e9,
        )
        return np.concatenate([array.ravel() for array in result.arrays.to_numpy_ndarrays()])

    def through_the_fast_path(self, backend: str = "numpy") -> tuple[np.ndarray, Simulation]:
        """Stop after as many updates as Flower brought."""
        problem, size = self.work.problem, self.config.train.cohort_size
        settings = LoopSettings(
            in_flight=self.config.devices.num_in_flight,
            horizon=1e9,
            evaluate_every=SECONDS,
            max_staleness=fitting_staleness(
                recipe_of(self.config).parts(), self.config.devices.num_in_flight
            ),
            max_updates=self.outcomes().total() - self.outcomes()["failed"],
            cohort_size=size,
        )
        run = Simulation(
            trainer_for(problem, backend, self.work.initial, size),
            problem.data.sizes().tolist(),
            self.work.initial,
            self.fleet,
            recipe_of(self.config),
            settings,
            selector=selector_of(self.config, SEED),
        )
        run.run()
        return run.engine.published, run

    def outcomes(self) -> Counter[str]:
        codes = {"": "accepted", Code.CLIENT_FAILED: "failed"}
        return Counter(codes.get(event.code, event.code) for event in self.recorder.updates)

    def participation(self) -> list[int]:
        accepted = Counter(event.client for event in self.recorder.updates if event.accepted)
        return [accepted[str(FIRST_NODE_ID + client)] for client in range(CLIENTS)]

    def require_agreement(
        self, strategy: AsyncStrategy, backend: str = "numpy", late: float = 0.0
    ) -> None:
        """Compare order, fates, times (to `late` median tasks) and models."""
        expected = self.through_flower(strategy)
        params, run = self.through_the_fast_path(backend)
        assert run.engine.version == VERSIONS
        assert run.outcomes == self.outcomes()
        assert run.participation == self.participation()
        time, slack = self.recorder.merges[-1].time, late * self.fleet.median_task
        assert run.evaluations[-1].time == pytest.approx(time, abs=slack)
        assert np.abs(expected - self.work.initial).max() > 0.01
        # FADAS' steps divide by roots of what may be next to nothing.
        close = 1e-5 if run.engine.recipe.name == "fadas" else 2e-6
        np.testing.assert_allclose(params, expected, atol=close)


@pytest.mark.parametrize("backend", ["numpy", "vmap", "flat"])
@pytest.mark.parametrize("name", DROP_IN)
def test_the_fast_path_gives_the_models_of_a_flower_run(name: str, backend: str) -> None:
    both = Both(configured(name))
    both.require_agreement(DROP_IN[name](fraction_evaluate=0.0), backend)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_the_same_models_in_both(name: str) -> None:
    both = Both(configured(name))
    both.require_agreement(AsyncStrategy(recipe_of(both.config), fraction_evaluate=0.0))


@pytest.mark.parametrize("kind", DEVICES)
def test_devices_of_every_kind_give_the_same_models_in_both(kind: str, tmp_path: Path) -> None:
    trace = tmp_path / "devices.csv"
    trace.write_text(TRACE)
    windows = tmp_path / "windows.csv"
    windows.write_text(WINDOWS.format(end=20_000 if "windows_period" in DEVICES[kind] else 1e6))
    given: dict[str, Any] = {"trace": trace} if kind == "trace" else {"task_seconds": SECONDS}
    if "windows" in kind:
        given["windows"] = windows
    both = Both(configured(devices={**given, **DEVICES[kind]}))
    strategy = AsyncStrategy(recipe_of(both.config), fraction_evaluate=0.0, min_available_nodes=1)
    both.require_agreement(strategy, late=0.01)
    fails = {"dropout", "death_rate", "session"} & DEVICES[kind].keys() or kind == "windows"
    assert bool(both.outcomes()["failed"]) == bool(fails)


@pytest.mark.parametrize("policy", ["speed", "load-aware", "auction"])
def test_both_choose_the_same_clients(policy: str) -> None:
    both = Both(configured("fedasync", devices={"in_flight": 0.5}, dispatch={"policy": policy}))
    half = {"fraction_train": 0.5, "fraction_evaluate": 0.0}
    both.require_agreement(FedAsync(selection=policy, seed=SEED, **half))


def test_a_client_two_hundred_versions_late_counts_in_both(tmp_path: Path) -> None:
    trace = tmp_path / "devices.csv"
    rows = [f"{client},{25 if client == 9 else 1}" for client in range(10)]
    trace.write_text("\n".join(["client,compute", *rows]))
    config = SimulationConfig.model_validate(
        {
            "devices": {"clients": 10, "speed": "trace", "trace": trace, "jitter": 0.0},
            "train": {"model": "logistic", "local_steps": 1, "batch_size": 4},
            "strategy": {"name": "fedbuff", "buffer_size": 1},
            "run": {"virtual_time": 26.0, "seeds": 1},
        }
    )
    (run,) = simulate(config).runs
    assert run.outcomes == {"accepted": run.updates}

    recorder, seconds = Recorder(), config.run.virtual_time
    fleet = fleet_from(config.devices, model_bytes=1, virtual_time=seconds, seed=SEED)
    strategy = FedBuff(buffer_size=1, fraction_evaluate=0.0, callbacks=[recorder])
    strategy.start(VirtualGrid(client_app(), 10, fleet), initial_arrays(), num_rounds=run.versions)
    assert {event.code for event in recorder.updates} == {"accepted"}
    assert max(event.staleness for event in recorder.updates) > 200


@pytest.mark.parametrize(
    ("name", "buffer_size", "in_flight", "versions"),
    [
        ("fedbuff", 10, 1000, 5000),
        ("fedbuff", 10, 20, 1000),
        ("async-wa", 10, 60, 3000),
        ("fedasync", None, 60, 600),
        ("fedasync", None, 5, 100),
    ],
)
def test_the_live_bound_on_staleness_grows_with_the_fleet(
    name: str, buffer_size: int | None, in_flight: int, versions: int
) -> None:
    recipe = (
        recipe_from(name) if buffer_size is None else recipe_from(name, buffer_size=buffer_size)
    )
    assert fitting_limits(recipe, in_flight).max_staleness == versions
