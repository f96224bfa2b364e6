from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fl_client.trainer import Batch, task_seed, train
from fl_protocol.codes import ConfigInvalid
from fl_sim.cohort.base import Task
from fl_sim.cohort.choice import Problem, trainer_for
from fl_sim.simulation.models import initial_model
from strategies.update import Vector
from tests.support.simulation import (
    SETTINGS,
    BranchingModel,
    ConvolutionModel,
    GatedModel,
    PartlyFrozenModel,
    ProductModel,
    SharedModel,
    batch_norm_model,
    dropout_model,
    initial,
    problem,
    trained,
)

BACKENDS = ["numpy", "vmap", "flat"]
MODELS = ["mlp", "logistic"]


def tasks_of(base: Vector, count: int) -> list[Task]:
    """Tasks with different bases, clients and versions."""
    return [Task(base + np.float32(0.01 * n), n, 7 + n) for n in range(count)]


def trained_alone(job: Problem, task: Task, model: nn.Module) -> Vector:
    """What the trainer of a live client makes of a task."""
    names = list(model.state_dict())
    pieces = np.split(task.base, np.cumsum([v.numel() for v in model.state_dict().values()])[:-1])
    shapes = [v.shape for v in model.state_dict().values()]
    state = {n: torch.tensor(p).reshape(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
    model.load_state_dict(state)
    rows = job.data.of(task.client)
    data = Batch(torch.tensor(job.data.inputs[rows]), torch.tensor(job.data.labels[rows]))
    train(model, data, job.settings, task_seed(SETTINGS.seed, str(task.client), task.base_version))
    return initial_model(model) - task.base


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", MODELS)
def test_trains_like_a_live_client(backend: str, model: str) -> None:
    job, base = problem(model=model), initial(model)
    tasks = tasks_of(base, 5)
    deltas = trained(trainer_for(job, backend, base, 5), tasks)
    for task, delta in zip(tasks, deltas, strict=True):
        expected = trained_alone(job, task, job.model())
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(delta, expected, atol=2e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", MODELS)
def test_a_result_does_not_depend_on_its_cohort(backend: str, model: str) -> None:
    base = initial(model)
    trainer = trainer_for(problem(model=model), backend, base, 8)
    tasks = tasks_of(base, 8)
    together = trained(trainer, tasks)
    backwards = trained(trainer, tasks[::-1])[::-1]
    alone = [trained(trainer, [task])[0] for task in tasks]
    for one, other, third in zip(together, backwards, alone, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, third)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", MODELS)
def test_each_task_takes_its_own_number_of_steps(backend: str, model: str) -> None:
    job, base = problem(model=model), initial(model)
    trainer = trainer_for(job, backend, base, 6)
    numbers = [2, 7, None, 1, 3, 7]
    tasks = [
        task._replace(steps=steps) for task, steps in zip(tasks_of(base, 6), numbers, strict=True)
    ]
    together = trained(trainer, tasks)
    for task, delta in zip(tasks, together, strict=True):
        steps = SETTINGS.steps if task.steps is None else task.steps
        own = replace(job, settings=replace(SETTINGS, steps=steps))
        np.testing.assert_allclose(delta, trained_alone(own, task, job.model()), atol=3e-7)
        assert np.array_equal(delta, trained(trainer, [task])[0])
        only = trainer_for(own, backend, base, 6)
        assert np.array_equal(delta, trained(only, [task._replace(steps=None)])[0])


@pytest.mark.parametrize("make", [dropout_model])
def test_dropout_masks_are_those_of_a_live_client(make: Callable[[], nn.Module]) -> None:
    job = replace(problem(), model=make, dense_sizes=None)
    task = Task(initial_model(make()), 2, 4)
    (delta,) = trained(trainer_for(job, "auto", task.base, 4), [task])
    np.testing.assert_allclose(delta, trained_alone(job, task, make()), atol=2e-7)


@pytest.mark.parametrize("make", [GatedModel, ProductModel, PartlyFrozenModel])
@pytest.mark.parametrize("backend", ["vmap", "flat"])
def test_trains_any_module_like_a_live_client_whoever_is_trained_with_it(
    make: Callable[[], nn.Module], backend: str
) -> None:
    job = replace(problem(20), model=make, dense_sizes=None)
    tasks = tasks_of(initial_model(make()), 19)
    trainer = trainer_for(job, backend, tasks[0].base, 19)
    together = trained(trainer, tasks)
    backwards = trained(trainer, tasks[::-1])[::-1]
    for task, one, other in zip(tasks, together, backwards, strict=True):
        expected = trained_alone(job, task, make())
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(one, expected, atol=3e-7)
        assert np.array_equal(one, other)
        assert np.array_equal(one, trained(trainer, [task])[0])


@pytest.mark.parametrize(
    "make", [dropout_model, batch_norm_model, SharedModel, BranchingModel, ConvolutionModel]
)
def test_refuses_to_vectorise_what_it_cannot_and_takes_another_way(
    make: Callable[[], nn.Module],
) -> None:
    job = replace(problem(), model=make, dense_sizes=None)
    with pytest.raises(ConfigInvalid, match="use flat"):
        trainer_for(job, "vmap", initial_model(make()), 4)
    assert trainer_for(job, "auto", initial_model(make()), 4).name == "flat"


def test_running_statistics_belong_to_the_model() -> None:
    job = replace(problem(), model=batch_norm_model, dense_sizes=None)
    tasks = tasks_of(initial_model(batch_norm_model()), 3)
    trainer = trainer_for(job, "flat", tasks[0].base, 4)
    together = trained(trainer, tasks)
    (alone,) = trained(trainer, [tasks[2]])
    assert np.array_equal(together[2], alone)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_backends_count_the_same_correct_answers(backend: str) -> None:
    base = initial()
    models = np.stack([base, -base, np.roll(base, 1)])
    counted = trainer_for(problem(), backend, base, 4).accuracies(models)
    expected = trainer_for(problem(), "flat", base, 4).accuracies(models)
    assert counted == pytest.approx(expected)
    assert len(set(counted)) == len(models)
    assert all(0.0 < accuracy < 1.0 for accuracy in counted)
