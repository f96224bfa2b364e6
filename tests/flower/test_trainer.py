from __future__ import annotations

import pytest
import torch
from torch import nn

from fl_client.optimiser import SGD
from fl_client.trainer import Batch, TrainSettings, evaluate, mlp, task_seed, train
from tests.support.federation import CLASSES, INPUTS, blobs, small_model


def trained(seed: int, settings: TrainSettings | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, 16), nn.Dropout(0.5), nn.Linear(16, CLASSES))
    train(model, blobs(50, 1), settings or TrainSettings(batch_size=8), seed)
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_the_same_seed_gives_the_same_weights_whatever_happened_before() -> None:
    first = trained(3)
    torch.rand(17)
    assert torch.equal(trained(3), first)
    assert not torch.equal(trained(4), first)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = small_model()
    torch.manual_seed(5)
    train(model, blobs(20, 1), TrainSettings(), seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_task_seeds_differ_by_seed_client_and_version() -> None:
    tasks = {task_seed(s, c, v) for s in (0, 1) for c in ("a", "b") for v in (0, 1)}
    assert len(tasks) == 8
    assert all(0 <= seed < 2**63 for seed in tasks)


def test_one_step_is_the_gradient_step_of_sgd() -> None:
    torch.manual_seed(0)
    model, reference, data = small_model(), small_model(), blobs(10, 1)
    reference.load_state_dict(model.state_dict())
    train(model, data, TrainSettings(SGD(lr=0.1), batch_size=10), seed=0)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    nn.functional.cross_entropy(reference(data.inputs), data.labels).backward()
    optimizer.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7)


def test_frozen_parameters_stay_as_they_are() -> None:
    model = small_model()
    first = next(model.parameters())
    first.requires_grad = False
    before = first.clone()
    train(model, blobs(20, 1), TrainSettings(), seed=1)
    assert torch.equal(first, before)


def test_a_single_left_over_example_does_not_break_batch_norm() -> None:
    model = nn.Sequential(nn.BatchNorm1d(INPUTS), nn.Linear(INPUTS, CLASSES))
    assert train(model, blobs(9, 1), TrainSettings(batch_size=8), seed=1) > 0


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model, data = small_model(), blobs(100, 1)
    before, _ = evaluate(model, data)
    train(model, data, TrainSettings(epochs=5), seed=1)
    after, accuracy = evaluate(model, data)
    assert after < before
    assert accuracy > 0.6


def test_refuses_a_client_without_examples() -> None:
    empty = Batch(torch.zeros(0, 784), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="no local examples"):
        train(mlp(), empty, TrainSettings(), seed=1)
    with pytest.raises(ValueError, match="no local examples"):
        evaluate(mlp(), empty)
