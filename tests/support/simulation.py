"""A small simulated federation without a data set: clusters, a tiny perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData, CohortTrainer, Task
from fl_sim.cohort.choice import Problem
from fl_sim.simulation.availability import Windows
from fl_sim.simulation.fleet import Fleet
from fl_sim.simulation.fleet_builder import speeds
from fl_sim.simulation.models import build, seeded
from strategies.update import Vector
from tests.support.federation import CLASSES, INPUTS, blobs

HIDDEN = 6
SETTINGS = TrainSettings(batch_size=16, seed=0, steps=3)


def client_data(num_clients: int) -> ClientData:
    """Client i holds 30 + i examples, those of the support federation."""
    parts = [blobs(30 + client, 100 + client) for client in range(num_clients)]
    return ClientData.joined([(part.inputs.numpy(), part.labels.numpy()) for part in parts])


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


def windows(*clients: Sequence[tuple[float, float]], period: float = math.inf) -> Windows:
    """Windows of availability: for each client those in which it is online."""
    flat = [window for client in clients for window in client]
    opens, closes = zip(*flat, strict=True)
    return Windows([len(client) for client in clients], opens, closes, period)


def trained(trainer: CohortTrainer, tasks: list[Task]) -> list[Vector]:
    rows = [np.empty_like(tasks[0].base) for _ in tasks]
    trainer.train(tasks, rows)
    return rows


def dropout_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.Dropout(0.5), nn.Linear(6, CLASSES))


def batch_norm_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES))


class ProductModel(nn.Module):
    """The gradient of either matrix is a product with the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Parameter(0.1 * torch.randn(HIDDEN, INPUTS))
        self.last = nn.Parameter(0.1 * torch.randn(CLASSES, HIDDEN))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ (self.last @ self.first).T


class PartlyFrozenModel(nn.Module):
    """One layer is not trained, one is not used, and memory is overwritten."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(INPUTS, HIDDEN)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(2, 3)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.frozen(inputs).relu_())


class GatedModel(nn.Sequential):
    """Normalisation without statistics, and activations that kernels approximate."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = nn.Linear(INPUTS, HIDDEN), nn.LayerNorm(HIDDEN), nn.GELU(), nn.Tanh()
        super().__init__(*layers, nn.Linear(HIDDEN, CLASSES))


class ConvolutionModel(nn.Sequential):
    """Three channels: the kernel for all clients treats the last ones in another way."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = nn.Unflatten(1, (1, INPUTS)), nn.Conv1d(1, 3, 3), nn.Flatten()
        super().__init__(*layers, nn.Linear(3 * (INPUTS - 2), CLASSES))


class BranchingModel(nn.Sequential):
    """Its course depends on values."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(INPUTS, CLASSES))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = super().forward(inputs)
        return logits if logits.sum() > 0 else 2 * logits


class SharedModel(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.once = nn.Linear(INPUTS, INPUTS)
        self.twice = self.once
        self.last = nn.Linear(INPUTS, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.twice(self.once(inputs).relu()).relu())
