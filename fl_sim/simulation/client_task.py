"""A client task of one's own: model, loss, data and local optimiser as Python objects."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fl_client.optimiser import SGD
from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.cohort.base import ClientData, TestData, Values
from fl_sim.cohort.losses import Loss, Metric, cross_entropy, share_right
from fl_sim.simulation.config import DataSection, SimulationConfig, TrainSection

_OF_THE_TASK = {"model", "hidden", "lr", "momentum", "nesterov", "weight_decay", "proximal"}
_DTYPES = (np.dtype(np.float32), np.dtype(np.int64))
_TRIED = 3


@dataclass(frozen=True)
class ClientTask:
    """What clients train, and how it is judged.

    Attributes
    ----------
    model : callable
        Builds the module, of float32 parameters. What it draws from torch's generator is seeded
        with the seed of the run.
    data : ClientData
        Who holds which examples.
    test : tuple of (ndarray, ndarray)
        Inputs and targets of the test examples, of the shapes and dtypes of `data`.
    loss : Loss, optional
        Takes outputs (n, ...) and targets (n, ...) and returns the loss of each example, shape
        (n,); the trainer takes the mean over each batch. Not a mean itself, because examples of
        several clients go through it together. Cross-entropy by default.
    optimiser : SGD, optional
        The local optimiser; plain SGD by default.
    metric : Metric, optional
        Takes outputs and targets of all test examples and returns the number that results call
        accuracy; the larger, the better, where a run has a target. The share of right answers
        by default.
    """

    model: Callable[[], nn.Module]
    data: ClientData
    test: TestData
    loss: Loss = cross_entropy
    optimiser: SGD = field(default_factory=SGD)
    metric: Metric = share_right


def check_task(task: ClientTask, config: SimulationConfig) -> None:
    """Refuse a task that cannot be simulated, having tried it on a few examples.

    Raises
    ------
    ConfigInvalid
        If the configuration names data, model or optimiser too; clients, examples and targets do
        not fit together; model, loss or metric fail; or the task is to be sent to other processes
        and cannot be.
    """
    _check_config(config)
    _check_data(task, config.devices.clients)
    _try(task)
    if min(config.run.workers, config.run.seeds) > 1:
        try:
            pickle.dumps((task.model, task.loss, task.metric))
        except Exception as error:
            raise _invalid(
                "run.workers: the task cannot be sent to other processes; define model, loss and "
                f"metric by name in a module, or use one worker. pickle said: {error}"
            ) from error


def _check_config(config: SimulationConfig) -> None:
    train = TrainSection().model_dump(include=_OF_THE_TASK)
    said = ["data"] if config.data != DataSection() else []
    said += [f"train.{key}" for key in train if getattr(config.train, key) != train[key]]
    if said:
        raise _invalid(f"{', '.join(said)}: the task says this itself; leave it out.")


def _check_data(task: ClientTask, clients: int) -> None:
    data = task.data
    for name, inputs, targets in (("data", data.inputs, data.labels), ("test", *task.test)):
        if {inputs.dtype, targets.dtype} - set(_DTYPES):
            raise _invalid(
                f"task.{name}: inputs and targets must be arrays of float32 or int64, "
                f"not {inputs.dtype} and {targets.dtype}."
            )
        if len(inputs) != len(targets) or not len(inputs):
            raise _invalid(
                f"task.{name}: there are {len(inputs)} inputs and {len(targets)} targets."
            )
    if data.num_clients != clients:
        raise _invalid(f"devices.clients: is {clients}, but the task has {data.num_clients}.")
    sizes, rows = data.sizes(), data.rows
    if data.starts[0] != 0 or data.starts[-1] != len(rows) or sizes.min() < 0:
        raise _invalid("task.data: starts must rise from 0 to the number of rows.")
    if sizes.min() == 0:
        raise _invalid(f"task.data: client {int(sizes.argmin())} has no examples.")
    if rows.min() < 0 or rows.max() >= len(data.inputs):
        raise _invalid("task.data: rows must be numbers of examples.")
    for values in (data.inputs, data.labels):
        spoilt = np.flatnonzero(np.isin(rows, _not_finite(values)))
        if len(spoilt):
            client = int(np.searchsorted(data.starts, spoilt[0], side="right")) - 1
            raise _invalid(f"task.data: client {client} has an example that is not finite.")
    if any(len(_not_finite(values)) for values in task.test):
        raise _invalid("task.test: an example is not finite.")


def _not_finite(values: Values) -> npt.NDArray[np.intp]:
    """Return the examples in which some number is infinite or NaN."""
    spoilt = ~np.isfinite(values).reshape(len(values), -1)
    return np.flatnonzero(spoilt.any(axis=1))


def _try(task: ClientTask) -> None:
    examples = task.data.inputs[:_TRIED], task.data.labels[:_TRIED]
    tested = task.test[0][:_TRIED], task.test[1][:_TRIED]
    try:
        model = task.model().eval()
        inputs, targets = map(torch.from_numpy, examples)
        losses = task.loss(model(inputs), targets)
        inputs, targets = map(torch.from_numpy, tested)
        with torch.no_grad():
            float(task.metric(model(inputs), targets))
    except Exception as error:
        raise _invalid(
            "task: model, loss or metric failed on the first examples: "
            f"{type(error).__name__}: {error}"
        ) from error
    if losses.shape != (len(examples[0]),) or not losses.requires_grad:
        raise _invalid(
            f"task.loss: must return one value per example, shape ({len(examples[0])},), that "
            f"depends on the parameters, not shape {tuple(losses.shape)}; torch's losses take "
            'reduction="none".'
        )


def _invalid(sentence: str) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, sentence)
