"""Local optimisers, losses and metrics of one's own in vectorised cohorts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_client.optimiser import SGD
from fl_client.trainer import Batch, task_seed
from fl_protocol.codes import ConfigInvalid
from fl_sim.cohort.base import ClientData, Task
from fl_sim.cohort.choice import Problem, trainer_for
from fl_sim.cohort.losses import Loss, cross_entropy, squared_error
from fl_sim.simulation.models import initial_model
from strategies.update import Vector
from tests.support.federation import CLASSES, INPUTS
from tests.support.optimisers import OPTIMISERS, trained_by_torch
from tests.support.simulation import SETTINGS, PartlyFrozenModel, initial, problem, trained

CLIENTS = 11


def regression_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.Tanh(), nn.Linear(6, 2))


def regression(optimiser: SGD, loss: Loss = squared_error) -> Problem:
    """Client i holds 20 + i examples, so that batches are of many sizes."""
    rng = np.random.default_rng(3)
    parts = []
    for client in range(CLIENTS):
        inputs = rng.normal(size=(20 + client, INPUTS)).astype(np.float32)
        parts.append((inputs, np.stack([inputs.sum(1), inputs[:, 0] ** 2], 1)))
    data = ClientData.joined(parts)
    return Problem(
        data,
        (data.inputs[:50], data.labels[:50]),
        replace(SETTINGS, optimiser=optimiser, steps=5),
        regression_model,
        loss=loss,
        metric=lambda outputs, targets: -(outputs - targets).abs().mean(),
    )


def classification(optimiser: SGD) -> Problem:
    return replace(problem(CLIENTS), settings=replace(SETTINGS, optimiser=optimiser, steps=5))


def tasks_from(base: Vector) -> list[Task]:
    return [Task(base + np.float32(0.01 * n), n, 7 + n) for n in range(CLIENTS)]


def by_torch(job: Problem, task: Task, mean_loss: Callable[[Tensor, Tensor], Tensor]) -> Vector:
    model = job.model()
    nn.utils.vector_to_parameters(torch.tensor(task.base), model.parameters())
    rows = job.data.of(task.client)
    data = Batch(torch.tensor(job.data.inputs[rows]), torch.tensor(job.data.labels[rows]))
    seed = task_seed(SETTINGS.seed, str(task.client), task.base_version)
    trained_by_torch(model, data, job.settings, seed, mean_loss)
    return initial_model(model) - task.base


@pytest.mark.parametrize("backend", ["numpy", "vmap", "flat"])
@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_optimisers_are_those_of_torch(optimiser: SGD, backend: str) -> None:
    job, tasks = classification(optimiser), tasks_from(initial())
    deltas = trained(trainer_for(job, backend, tasks[0].base, CLIENTS), tasks)
    for task, delta in zip(tasks, deltas, strict=True):
        expected = by_torch(job, task, functional.cross_entropy)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(delta, expected, atol=1e-6)


@pytest.mark.parametrize("backend", ["vmap", "flat"])
@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_loss_of_ones_own_is_averaged_over_each_clients_batch(
    optimiser: SGD, backend: str
) -> None:
    job = regression(optimiser)
    tasks = tasks_from(initial_model(regression_model()))
    deltas = trained(trainer_for(job, backend, tasks[0].base, CLIENTS), tasks)
    for task, delta in zip(tasks, deltas, strict=True):
        np.testing.assert_allclose(delta, by_torch(job, task, functional.mse_loss), atol=2e-6)


@pytest.mark.parametrize("backend", ["numpy", "vmap", "flat"])
@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_result_does_not_depend_on_its_cohort(optimiser: SGD, backend: str) -> None:
    job = classification(optimiser) if backend == "numpy" else regression(optimiser)
    numbers = [2, 7, None, 1, 3, 7, 5, 5, 4, 1, 6]
    tasks = [
        task._replace(steps=steps)
        for task, steps in zip(tasks_from(initial_model(job.model())), numbers, strict=True)
    ]
    trainer = trainer_for(job, backend, tasks[0].base, CLIENTS)
    together = trained(trainer, tasks)
    backwards = trained(trainer, tasks[::-1])[::-1]
    for task, one, other in zip(tasks, together, backwards, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, trained(trainer, [task])[0])


def test_what_is_not_trained_stays_as_it_is_whatever_the_optimiser() -> None:
    job = replace(classification(OPTIMISERS["all"]), model=PartlyFrozenModel, dense_sizes=None)
    tasks = tasks_from(initial_model(PartlyFrozenModel()))
    one, other = (
        trained(trainer_for(job, backend, tasks[0].base, CLIENTS), tasks)
        for backend in ("vmap", "flat")
    )
    layers = {name: value.numel() for name, value in PartlyFrozenModel().state_dict().items()}
    idle = sum(size for name, size in layers.items() if not name.startswith("last"))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert not ours[:idle].any() and not theirs[:idle].any()
        assert ours[idle:].all()


@pytest.mark.parametrize("backend", ["vmap", "flat"])
def test_a_loss_may_hold_tensors_of_its_own(backend: str) -> None:
    weights = torch.linspace(0.5, 2.0, CLASSES).view(1, CLASSES)

    def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
        factors = weights.expand(len(outputs), CLASSES).view(-1, CLASSES)
        return functional.cross_entropy(outputs * factors, targets, reduction="none")

    job = replace(classification(SGD()), loss=weighted, dense_sizes=None)
    tasks = tasks_from(initial())
    deltas = trained(trainer_for(job, backend, tasks[0].base, CLIENTS), tasks)
    for task, delta in zip(tasks, deltas, strict=True):
        expected = by_torch(job, task, lambda outputs, labels: weighted(outputs, labels).mean())
        np.testing.assert_allclose(delta, expected, atol=1e-6)


def test_a_loss_across_examples_is_not_vectorised() -> None:
    def centred(outputs: Tensor, targets: Tensor) -> Tensor:
        return squared_error(outputs - outputs.mean(0), targets)

    job = regression(SGD(), centred)
    with pytest.raises(ConfigInvalid, match="use flat"):
        trainer_for(job, "vmap", initial_model(job.model()), CLIENTS)


@pytest.mark.parametrize("backend", ["vmap", "flat"])
def test_evaluations_report_the_metric_of_the_problem(backend: str) -> None:
    job = regression(SGD())
    base = initial_model(job.model())
    (told,) = trainer_for(job, backend, base, CLIENTS).accuracies(base[None])
    with torch.no_grad():
        outputs = job.model()(torch.tensor(job.test[0])).numpy()
    assert told == pytest.approx(-np.abs(outputs - job.test[1]).mean(), rel=1e-5)


def test_numpy_takes_no_loss_of_ones_own_and_auto_takes_another_way() -> None:
    job = replace(problem(), loss=lambda outputs, targets: cross_entropy(outputs, targets))
    with pytest.raises(ConfigInvalid, match=r"train\.backend: numpy has no loss"):
        trainer_for(job, "numpy", initial(), 4)
    assert trainer_for(job, "auto", initial(), 4).name in ("vmap", "flat")
