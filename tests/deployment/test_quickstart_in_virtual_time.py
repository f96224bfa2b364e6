from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Result

from asynclave import AsyncWA
from fl_sim.devices import Devices
from fl_sim.grid import VirtualGrid

RUN_CONFIG = {"local-epochs": 1, "learning-rate": 0.1, "batch-size": 32}


def untouched_client_app() -> ClientApp:
    """The quickstart's functions in a ClientApp that has never heard of Asynclave."""
    from quickstart import client_app

    app = ClientApp()
    app.train()(client_app.train)
    app.evaluate()(client_app.evaluate)
    return app


def quickstart_app() -> ClientApp:
    from quickstart import client_app

    return client_app.app


@pytest.mark.parametrize("client_app", [untouched_client_app, quickstart_app])
# Three rounds of FedAvg take nine updates; a version of Async-WA takes one.
@pytest.mark.parametrize(("strategy", "num_rounds"), [(FedAvg, 3), (AsyncWA, 9)])
def test_the_same_client_app_serves_fedavg_and_async_wa(
    client_app: Callable[[], ClientApp], strategy: Callable[[], Any], num_rounds: int
) -> None:
    # given three nodes, one of them four times slower
    from quickstart.task import Net

    torch.manual_seed(1)
    devices = Devices(seconds=(1.0, 1.2, 4.0), jitter=0.0)
    grid = VirtualGrid(client_app(), 3, devices, RUN_CONFIG)
    # when
    result: Result = strategy().start(
        grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=num_rounds
    )
    # then
    assert sorted(result.train_metrics_clientapp) == list(range(1, num_rounds + 1))
    assert result.evaluate_metrics_clientapp[num_rounds]["eval_acc"] > 0.4
