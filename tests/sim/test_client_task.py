"""Simulations of a model, loss, data and local optimiser of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fl_protocol.codes import ConfigInvalid
from fl_sim import (
    SGD,
    ClientData,
    ClientTask,
    SimulationConfig,
    simulate,
    simulate_task,
    squared_error,
)
from fl_sim.simulation.config import load_config
from fl_sim.simulation.workload import workload_from
from strategies.errors import UnknownRecipe
from tests.support.optimisers import OPTIMISERS

CLIENTS, INPUTS = 6, 4


def linear() -> nn.Module:
    return nn.Linear(INPUTS, 1)


def explained(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1 - (outputs - targets).square().mean() / targets.var()


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(seed).normal(size=(count, INPUTS)).astype(np.float32)
    return inputs, inputs @ np.float32([[1.0], [-2.0], [0.5], [0.0]])


TASK = ClientTask(
    linear,
    ClientData.joined([examples(20 + client, client) for client in range(CLIENTS)]),
    examples(100, 99),
    squared_error,
    SGD(lr=0.05, momentum=0.5),
    explained,
)


def small(**sections: dict[str, Any]) -> SimulationConfig:
    content: dict[str, dict[str, Any]] = {
        "devices": {"clients": CLIENTS},
        "train": {"local_steps": 3, "batch_size": 8, "backend": "flat"},
        "run": {"virtual_time": 8.0, "seeds": 2, "target_accuracy": 0.9},
    }
    for name, values in sections.items():
        content[name] = {**content.get(name, {}), **values}
    return load_config(None, content)


def digests(task: ClientTask, config: SimulationConfig) -> list[str]:
    found: list[str] = simulate_task(task, config).summary()["digest"]
    return found


@pytest.mark.parametrize("backend", ["vmap", "flat"])
def test_a_regression_learns_and_is_told_by_its_own_metric(backend: str) -> None:
    result = simulate_task(TASK, small(train={"backend": backend}))
    assert [run.seed for run in result.runs] == [1, 2]
    for run in result.runs:
        assert run.backend == backend
        assert run.accuracies[0][1] < 0.7
        assert run.final_accuracy > 0.95
        assert run.time_to_target is not None
        assert run.config == ""
    assert len({run.digest for run in result.runs}) == 2


def test_variances_of_normalisation_layers_stay_above_zero() -> None:
    def normalised() -> nn.Module:
        return nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    # The clients' variances are a hundredth of the initial model's, and twenty steps at a momentum
    # of a tenth make up for nearly nine tenths of that.
    tiny = [(0.1 * inputs, outputs) for inputs, outputs in (examples(40, c) for c in range(30))]
    test = 0.1 * TASK.test[0], TASK.test[1]
    task = replace(TASK, model=normalised, data=ClientData.joined(tiny), test=test)
    config = small(
        devices={"clients": 30, "sigma": 0.2},
        train={"local_steps": 20},
        run={"virtual_time": 12.0, "seeds": 1},
    )
    (run,) = simulate_task(task, config).runs
    assert run.outcomes == {"accepted": run.updates}
    assert all(math.isfinite(score) for _, score in run.accuracies)
    assert run.final_accuracy > 0.9


def test_neither_cohorts_nor_workers_change_the_digests() -> None:
    alone = digests(TASK, small(train={"cohort_size": 1}))
    assert alone == digests(TASK, small(train={"cohort_size": 5}))
    assert alone == digests(TASK, small(run={"workers": 2}))


def test_loss_and_optimiser_change_the_digests() -> None:
    def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean(1)

    config = small(run={"seeds": 1})
    tasks = [replace(TASK, optimiser=optimiser) for optimiser in OPTIMISERS.values()]
    found = [digests(task, config)[0] for task in [TASK, replace(TASK, loss=absolute), *tasks]]
    assert len(set(found)) == len(found)


def test_the_same_classifier_as_a_task_and_by_name_learns_alike() -> None:
    named = load_config(
        None, {"devices": {"clients": 6, "slow_hold_rare": False}, "run": {"seeds": 1}}
    )
    problem = workload_from(named, 1).problem
    task = ClientTask(problem.model, problem.data, problem.test)
    pinned = load_config(None, named.model_dump() | {"train": {"backend": "flat"}})
    assert digests(task, pinned) == simulate(pinned).summary()["digest"]


def changed_data(**arrays: Any) -> Callable[[], ClientTask]:
    return lambda: replace(TASK, data=replace(TASK.data, **arrays))


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def constant_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return torch.zeros(len(targets))


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        (lambda: replace(TASK, loss=mean_loss), r'shape \(3,\).*reduction="none"'),
        (lambda: replace(TASK, loss=constant_loss), "depends on the parameters"),
        (lambda: replace(TASK, loss=nn.CrossEntropyLoss()), "task.loss: must return one value"),
        (lambda: replace(TASK, model=lambda: nn.Linear(9, 1)), "failed on the first examples"),
        (lambda: replace(TASK, metric=lambda outputs, targets: "good"), "ValueError"),
        (lambda: replace(TASK, test=(TASK.test[0], TASK.test[1][:5])), "task.test: there are 100"),
        (lambda: replace(TASK, test=(TASK.test[0][:0], TASK.test[1][:0])), "task.test: there are"),
        (changed_data(inputs=TASK.data.inputs.astype(np.float64)), "not float64 and float32"),
        (changed_data(labels=TASK.data.labels[:-1]), "task.data: there are"),
        (changed_data(starts=np.array([0, 5, 5, 9, 10, 11, 135])), "client 1 has no examples"),
        (changed_data(starts=np.array([0, 5, 6, 9, 10, 11, 12])), "starts must rise"),
        (changed_data(rows=TASK.data.rows + 1), "rows must be numbers of examples"),
        (changed_data(starts=np.array([0, 135])), "devices.clients: is 6, but the task has 1"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_any_training(
    task: Callable[[], ClientTask], complaint: str
) -> None:
    with pytest.raises(ConfigInvalid, match=complaint):
        simulate_task(task(), small(), on_progress=lambda *_: pytest.fail("trained"))


def test_an_example_that_is_not_finite_is_named_by_its_client() -> None:
    inputs = TASK.data.inputs.copy()
    first = int(TASK.data.of(1)[0])
    inputs[first].flat[0] = np.inf
    with pytest.raises(
        ConfigInvalid, match=r"^CONFIG_INVALID: task\.data: client 1 has an example"
    ):
        simulate_task(replace(TASK, data=replace(TASK.data, inputs=inputs)), small())
    tested = TASK.test[0].copy()
    tested[0].flat[0] = np.nan
    with pytest.raises(ConfigInvalid, match=r"task\.test: an example is not finite"):
        simulate_task(replace(TASK, test=(tested, TASK.test[1])), small())


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"data": {"alpha": 1.0}}, "data: the task says this itself"),
        ({"train": {"lr": 0.1, "momentum": 0.9}}, r"train\.lr, train\.momentum: the task says"),
        ({"train": {"model": "cnn"}}, r"train\.model: the task says"),
        ({"train": {"backend": "numpy"}}, r"train\.backend: numpy trains"),
        ({"run": {"cache_folder": "/nowhere"}}, r"run\.cache_folder: /nowhere"),
    ],
)
def test_what_a_configuration_says_beside_the_task_is_refused(
    sections: dict[str, dict[str, Any]], complaint: str
) -> None:
    strategy = {"name": "async-wa", "options": {"async-wa": {"cache": "disk"}}}
    config = small(**sections, strategy=strategy)
    with pytest.raises(ConfigInvalid, match=complaint):
        simulate_task(TASK, config, on_progress=lambda *_: pytest.fail("trained"))


def test_a_task_that_cannot_be_sent_to_workers_is_refused() -> None:
    task = replace(TASK, model=lambda: nn.Linear(INPUTS, 1))
    with pytest.raises(ConfigInvalid, match=r"run\.workers: the task cannot be sent"):
        simulate_task(task, small(run={"workers": 2}))
    assert simulate_task(task, small(run={"virtual_time": 1.0})).runs


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UnknownRecipe):
        simulate_task(TASK, small(strategy={"name": "fedmagic"}))
