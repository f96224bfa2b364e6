"""The fast path and unmodified Flower apps on virtual time give the same models."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context

from fl_client.app import LocalData, make_client_app
from fl_server.strategy import AsyncStrategy, AsyncWA, FedAsync, FedBuff
from fl_sim.cohort.choice import trainer_for
from fl_sim.devices import lognormal_devices
from fl_sim.grid import FIRST_NODE_ID, VirtualGrid
from fl_sim.simulation.loop import LoopSettings, Simulation
from strategies.recipe import Recipe
from strategies.recipes import async_wa, fedasync, fedbuff
from strategies.selection import Selector, policy_from, selector_for
from tests.support.federation import Recorder, blobs, initial_arrays, partition, small_model
from tests.support.simulation import SETTINGS, ReplayedDevices, problem

CLIENTS, VERSIONS = 8, 20
PAIRS = {
    "fedbuff": (lambda **o: FedBuff(buffer_size=3, **o), fedbuff.FedBuff(buffer_size=3), 3),
    "fedasync": (FedAsync, fedasync.FedAsync(), 1),
    "async-wa": (lambda **o: AsyncWA(buffer_size=2, **o), async_wa.AsyncWA(buffer_size=2), 1),
}


def flat(arrays: ArrayRecord) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays.to_numpy_ndarrays()])


def through_flower(strategy: AsyncStrategy) -> tuple[np.ndarray, Recorder]:
    def load(context: Context) -> LocalData:
        number = partition(context)
        return LocalData(blobs(30 + number, 100 + number), blobs(20, 200 + number))

    app = make_client_app(load, small_model, settings=SETTINGS)
    grid = VirtualGrid(app, CLIENTS, lognormal_devices(CLIENTS, sigma=0.8, seed=3))
    recorder = Recorder()
    strategy.callbacks = (*strategy.callbacks, recorder)
    result = strategy.start(grid, initial_arrays(), num_rounds=VERSIONS)
    return flat(result.arrays), recorder


def through_the_fast_path(
    recipe: Recipe,
    updates: int,
    backend: str,
    in_flight: int = CLIENTS,
    selector: Selector | None = None,
) -> tuple[np.ndarray, Simulation]:
    job, base = problem(CLIENTS), flat(initial_arrays())
    devices = ReplayedDevices(lognormal_devices(CLIENTS, sigma=0.8, seed=3))
    settings = LoopSettings(
        in_flight=in_flight,
        horizon=1e6,
        evaluate_every=1.0,
        max_staleness=1000,
        max_updates=updates,
        cohort_size=4,
    )
    trainer = trainer_for(job, backend, base, settings.cohort_size)
    sizes = job.data.sizes().tolist()
    run = Simulation(trainer, sizes, base, devices, recipe, settings, selector=selector)
    run.run()
    return run.engine.published, run


@pytest.mark.parametrize("backend", ["numpy", "vmap", "flat"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_fast_path_gives_the_models_of_a_flower_run(name: str, backend: str) -> None:
    make, recipe, buffer_size = PAIRS[name]
    expected, recorder = through_flower(make(fraction_evaluate=0.0))
    params, run = through_the_fast_path(recipe, VERSIONS * buffer_size, backend)
    assert run.engine.version == VERSIONS
    assert run.outcomes == {"accepted": len(recorder.updates)}
    assert run.evaluations[-1].time == pytest.approx(recorder.merges[-1].time)
    assert np.abs(expected - flat(initial_arrays())).max() > 0.05
    np.testing.assert_allclose(params, expected, atol=2e-6)


@pytest.mark.parametrize("policy", ["speed", "load-aware", "auction"])
def test_both_choose_the_same_clients(policy: str) -> None:
    half = {"fraction_train": 0.5, "fraction_evaluate": 0.0}
    expected, recorder = through_flower(FedAsync(selection=policy, seed=4, **half))
    params, run = through_the_fast_path(
        fedasync.FedAsync(), VERSIONS, "numpy", CLIENTS // 2, selector_for(policy_from(policy), 4)
    )
    by_node = Counter(int(event.client) - FIRST_NODE_ID for event in recorder.updates)
    assert run.participation == [by_node[client] for client in range(CLIENTS)]
    np.testing.assert_allclose(params, expected, atol=2e-6)
