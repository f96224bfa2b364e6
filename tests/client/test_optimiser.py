from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fl_client.optimiser import SGD, Descent
from fl_client.trainer import TrainSettings, task_seed, train
from strategies.errors import BadOption
from tests.support.federation import blobs, small_model
from tests.support.optimisers import OPTIMISERS, trained_by_torch


def steps(optimiser: SGD, *gradients: float) -> list[float]:
    """Where steps along given gradients lead from 1."""
    parameter = torch.ones(1)
    descent = Descent(optimiser, [parameter])
    places = []
    for gradient in gradients:
        descent.step([torch.tensor([gradient])])
        places.append(parameter.item())
    return places


@pytest.mark.parametrize(
    ("optimiser", "places"),
    [
        (SGD(0.5), [0.0, -1.0]),
        # v = 2, then 0.5 * 2 + 2 = 3.
        (SGD(0.5, momentum=0.5), [0.0, -1.5]),
        # 2 + 0.5 * 2 = 3, then 2 + 0.5 * 3 = 3.5.
        (SGD(0.5, momentum=0.5, nesterov=True), [-0.5, -2.25]),
        # 2 + 0.5 * 1 = 2.5, then 2 + 0.5 * (-0.25) = 1.875.
        (SGD(0.5, weight_decay=0.5), [-0.25, -1.1875]),
        # 2 + 0, then 2 + 0.5 * (0 - 1) = 1.5.
        (SGD(0.5, proximal=0.5), [0.0, -0.75]),
    ],
)
def test_two_steps_along_a_gradient_of_two_worked_by_hand(
    optimiser: SGD, places: list[float]
) -> None:
    assert steps(optimiser, 2.0, 2.0) == places


def test_a_task_begins_without_the_velocity_and_the_anchor_of_the_last_one() -> None:
    parameter = torch.ones(1)
    descent = Descent(SGD(0.5, momentum=0.5, proximal=0.5), [parameter])
    results = []
    for start in (1.0, 1.0):
        parameter.fill_(start)
        descent.begin()
        descent.step([torch.tensor([2.0])])
        descent.step([torch.tensor([2.0])])
        results.append(parameter.item())
    assert results[0] == results[1]


def test_a_parameter_without_gradient_is_left_alone() -> None:
    used, unused = torch.ones(2), torch.ones(2)
    descent = Descent(SGD(0.5, momentum=0.5, weight_decay=0.5, proximal=0.5), [unused, used])
    for _ in range(3):
        descent.step([None, torch.ones(2)])
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_live_client_trains_like_the_optimiser_of_torch(optimiser: SGD) -> None:
    torch.manual_seed(0)
    model, reference, data = small_model(), small_model(), blobs(50, 1)
    reference.load_state_dict(model.state_dict())
    settings, seed = TrainSettings(optimiser, batch_size=8, steps=11), task_seed(0, "a", 3)
    train(model, data, settings, seed)
    trained_by_torch(reference, data, settings, seed, torch.nn.functional.cross_entropy)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"lr": -0.1}, "lr must be"),
        ({"lr": math.nan}, "lr must be"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"momentum": math.nan}, "momentum must be"),
        ({"nesterov": True}, "nesterov needs momentum"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"proximal": math.inf}, "proximal must be"),
    ],
)
def test_an_optimiser_out_of_range_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadOption, match=complaint):
        SGD(**options)
