"""A small simulated federation without a data set: clusters, a tiny perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData
from fl_sim.cohort.choice import Problem
from fl_sim.devices import Devices
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import speeds
from fl_sim.simulation.models import build, seeded
from strategies.update import Vector
from tests.support.federation import CLASSES, INPUTS, blobs

HIDDEN = 6
SETTINGS = TrainSettings(lr=0.05, batch_size=16, seed=0, steps=3)


def client_data(num_clients: int) -> ClientData:
    """Client i holds 30 + i examples, those of the support federation."""
    parts = [blobs(30 + client, 100 + client) for client in range(num_clients)]
    sizes = [len(part) for part in parts]
    return ClientData(
        np.concatenate([part.inputs.numpy() for part in parts]),
        np.concatenate([part.labels.numpy() for part in parts]),
        np.arange(sum(sizes)),
        np.concatenate([[0], np.cumsum(sizes)]),
    )


def problem(num_clients: int = 8, model: str = "mlp") -> Problem:
    test = blobs(100, 999)
    sizes = {"mlp": (INPUTS, HIDDEN, CLASSES), "logistic": (INPUTS, CLASSES)}[model]
    return Problem(
        client_data(num_clients),
        (test.inputs.numpy(), test.labels.numpy()),
        SETTINGS,
        lambda: build(model, (INPUTS,), CLASSES, HIDDEN),
        sizes,
    )


def initial(model: str = "mlp", seed: int = 0) -> Vector:
    return seeded(seed, model, (INPUTS,), CLASSES, HIDDEN)


def fleet(num_clients: int = 8, **options: object) -> Fleet:
    compute = tuple(speeds("lognormal", num_clients, 0.8, 3).tolist())
    return Fleet(compute, (0.0,) * num_clients, **options)


class ReplayedDevices:
    """The devices of a VirtualGrid, as the scheduler sees devices."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self.median_task = 1.0

    def __len__(self) -> int:
        return len(self._devices)

    def tasks(self, clients: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, int]]:
        return list(zip(clients, numbers, strict=True))

    def begin(self, task: tuple[int, int], now: float, work: float) -> tuple[float, bool]:
        return now + work * self._devices.duration(*task), True

    def ready(self, clients: Sequence[int], now: float) -> np.ndarray:
        return np.full(len(clients), now)


def dropout_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.Dropout(0.5), nn.Linear(6, CLASSES))


def batch_norm_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES))
