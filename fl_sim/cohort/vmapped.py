"""Stateless modules, many clients in one call of a traced graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData, Models, Task, TestData
from fl_sim.cohort.flat import flatten_module
from fl_sim.cohort.losses import Loss, Metric, cross_entropy, share_right
from fl_sim.cohort.order import StepPlan
from fl_sim.cohort.step_graph import TracedStep
from strategies.update import Vector

# Clients per call. Of 2 to 32, 8 to 16 were the fastest for models of 6,000 to 100,000 parameters,
# 4 for 400,000; cohorts are seldom whole, and the fewer to a call the fewer are made up.
_SLOTS, _SLOTS_IF_LARGE, _LARGE = 8, 4, 200_000
# Models begin at multiples of 64 bytes, so that kernels treat those of all slots alike.
_ALIGNED = 16
# Examples per call. Kernels compute so many numbers at a time, with another routine for what is
# left at the end; with a multiple of it nothing is left.
_VECTORS = 64


def can_vmap(model: nn.Module) -> bool:
    """Tell if a module is a function of parameters and inputs alone: no buffers, no dropout."""
    dropout = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules())
    # Parameters with two names would lie in the flat model twice.
    return not dropout and len(model.state_dict()) == len(list(model.parameters()))


class VmappedTrainer:
    """Trains several clients at a time, with the kernels of ``torch.func.vmap``.

    Every call has the same shape: what is missing is made up, because kernels may round
    differently for other batch sizes.

    Parameters
    ----------
    model : nn.Module
        A module for which `can_vmap` holds.
    data : ClientData
        Training examples.
    test : tuple of (ndarray, ndarray)
        Inputs and labels of the test examples.
    settings : TrainSettings
        Local training.
    loss : Loss, optional
        What clients train on; cross-entropy by default.
    metric : Metric, optional
        What `accuracies` returns; the share of right answers by default.

    Raises
    ------
    RuntimeError
        If ``vmap`` cannot run the model, or what it computes for a client depends on the others.
    """

    name = "vmap"

    def __init__(
        self,
        model: nn.Module,
        data: ClientData,
        test: TestData,
        settings: TrainSettings,
        loss: Loss = cross_entropy,
        metric: Metric = share_right,
    ) -> None:
        self._model, self._metric = model, metric
        self._inputs, self._labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
        self._test = torch.from_numpy(test[0]), torch.from_numpy(test[1])
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        flat = flatten_module(model).detach().numpy().copy()
        size = flat.size
        self._slots = slots = _SLOTS if size <= _LARGE else _SLOTS_IF_LARGE
        self._plan = StepPlan(data, settings, _VECTORS // slots)
        self.steps = self._plan.steps
        padded = torch.zeros(slots, -(-size // _ALIGNED) * _ALIGNED)
        self._models = padded[:, :size]
        # Fresh memory for every step's examples costs more in page faults than gathering them.
        shape = (slots, self._plan.width)
        self._gathered = self._inputs.new_zeros(shape + self._inputs.shape[1:])
        labels = self._labels.new_zeros(shape + self._labels.shape[1:])
        example = self._gathered, labels, torch.ones(shape)
        model.train()
        self._step = TracedStep(model, self._views(self._models), example, loss, settings.optimiser)
        if not self._repeats([Task(flat, n % data.num_clients, n) for n in range(slots)]):
            raise RuntimeError("a client's result depends on who is trained with it")

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        """Write trained minus base model of each task."""
        for tile in self._plan.tiles(tasks, self._slots):
            self._train_tile([tasks[place] for place in tile], [out[place] for place in tile])

    def accuracies(self, models: Models) -> list[float]:
        """Return the metric of each model on the test examples."""
        return [self._accuracy(model) for model in models]

    def _accuracy(self, params: Vector) -> float:
        views = {name: view[0] for name, view in self._views(torch.tensor(params[None])).items()}
        with torch.no_grad():
            outputs = functional_call(self._model, views, (self._test[0],))
            return float(self._metric(outputs, self._test[1]))

    def _train_tile(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        models = self._models.numpy()
        for slot, task in enumerate(tasks):
            models[slot] = task.base
        models[len(tasks) :] = tasks[0].base
        self._step.begin()
        steps = [self._plan.steps_of(task) for task in tasks]
        rows, weights = map(torch.from_numpy, self._plan.padded(tasks, self._slots))
        batches = zip(rows, self._labels[rows], weights, strict=True)
        gathered = self._gathered.view(-1, *self._inputs.shape[1:])
        for step, (picked, labels, weight) in enumerate(batches, 1):
            torch.index_select(self._inputs, 0, picked.view(-1), out=gathered)
            self._step(self._gathered, labels, weight)
            # Whoever is done stays in the call, which keeps its shape, but is read out now.
            for slot in (slot for slot, last in enumerate(steps) if last == step):
                np.subtract(models[slot], tasks[slot].base, out=out[slot])

    def _repeats(self, tasks: list[Task]) -> bool:
        """Tell if results are the same in another order, and of one task at a time."""
        results = np.empty((3, len(tasks), tasks[0].base.size), np.float32)
        self.train(tasks, list(results[0]))
        self.train(tasks[::-1], list(results[1, ::-1]))
        for task, row in zip(tasks, results[2], strict=True):
            self.train([task], [row])
        return bool((results == results[0]).all())

    def _views(self, models: Tensor) -> dict[str, Tensor]:
        views, place = {}, 0
        for name, shape in self._shapes.items():
            size = shape.numel()
            views[name] = torch.unflatten(models[:, place : place + size], 1, shape)
            place += size
        return views
