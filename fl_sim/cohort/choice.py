"""Which trainer to use: by rule for fully connected models, else by measuring."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from fl_client.trainer import TrainSettings
from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.cohort.base import ClientData, CohortTrainer, Task, TestData
from fl_sim.cohort.dense import DenseTrainer
from fl_sim.cohort.flat import FlatTrainer
from fl_sim.cohort.losses import Loss, Metric, cross_entropy, share_right
from fl_sim.cohort.vmapped import VmappedTrainer, can_vmap
from strategies.update import Vector

_ROUNDS = 3


@dataclass(frozen=True)
class Problem:
    """What clients train.

    Attributes
    ----------
    data : ClientData
        Training examples.
    test : tuple of (ndarray, ndarray)
        Inputs and labels of the test examples.
    settings : TrainSettings
        Local training; `steps` is set.
    model : callable
        Builds the module.
    dense_sizes : tuple of int, optional
        Layer widths if the model is fully connected with ReLU.
    loss : Loss, optional
        What clients train on; cross-entropy by default.
    metric : Metric, optional
        What evaluations report; the share of right answers by default.
    """

    data: ClientData
    test: TestData
    settings: TrainSettings
    model: Callable[[], nn.Module]
    dense_sizes: tuple[int, ...] | None = None
    loss: Loss = cross_entropy
    metric: Metric = share_right


def trainer_for(problem: Problem, backend: str, initial: Vector, cohort_size: int) -> CohortTrainer:
    """Return the trainer of the given name, or for "auto" the one to prefer.

    Fully connected classifiers go to numpy, which was the fastest at every size tried. For other
    problems `vmap` and the flat loop each train one cohort a few times and the faster is taken.
    Pin the name that was chosen to reproduce a run bit for bit: trainers sum in different orders.

    Parameters
    ----------
    problem : Problem
        What to train.
    backend : {"auto", "numpy", "vmap", "flat"}
        Name of a trainer.
    initial : Vector
        A model to measure with.
    cohort_size : int
        Tasks trained together when measuring.

    Raises
    ------
    ConfigInvalid
        If the problem cannot be trained that way.
    """
    if backend == "auto":
        try:
            return _numpy(problem)
        except ConfigInvalid:
            return _fastest(problem, initial, cohort_size)
    if backend == "numpy":
        return _numpy(problem)
    if backend == "vmap":
        return _vmapped(problem)
    return FlatTrainer(problem.model(), *_rest(problem))


def _numpy(problem: Problem) -> CohortTrainer:
    if problem.dense_sizes is None:
        raise _invalid("numpy trains mlp and logistic only; use vmap or flat.")
    if problem.loss is not cross_entropy or problem.metric is not share_right:
        raise _invalid("numpy has no loss or metric of one's own; use vmap or flat.")
    return DenseTrainer(problem.dense_sizes, problem.data, problem.test, problem.settings)


def _vmapped(problem: Problem) -> CohortTrainer:
    model = problem.model()
    if not can_vmap(model):
        raise _invalid("vmap trains no model with buffers, dropout or shared weights; use flat.")
    try:
        return VmappedTrainer(model, *_rest(problem))
    except RuntimeError as error:
        raise _invalid(f"vmap cannot run this model; use flat. It said: {error}") from error


def _rest(problem: Problem) -> tuple[ClientData, TestData, TrainSettings, Loss, Metric]:
    return problem.data, problem.test, problem.settings, problem.loss, problem.metric


def _fastest(problem: Problem, initial: Vector, cohort_size: int) -> CohortTrainer:
    flat = trainer_for(problem, "flat", initial, cohort_size)
    try:
        trainers = [flat, _vmapped(problem)]
    except ConfigInvalid:
        return flat
    count = problem.data.num_clients
    tasks = [Task(initial, number % count, 0) for number in range(cohort_size)]
    out = np.empty((cohort_size, initial.size), np.float32)
    return min(trainers, key=lambda trainer: _seconds(trainer, tasks, out))


def _seconds(trainer: CohortTrainer, tasks: list[Task], out: npt.NDArray[np.float32]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        trainer.train(tasks, list(out))
        seconds.append(time.process_time() - started)
    return min(seconds)


def _invalid(sentence: str) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, f"train.backend: {sentence}")
