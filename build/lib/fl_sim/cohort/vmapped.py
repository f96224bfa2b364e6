"""Stateless modules, all clients of a cohort in one vectorised call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData, Rows, Task
from fl_sim.cohort.flat import flatten_module
from fl_sim.cohort.order import StepPlan
from strategies.update import Vector


def can_vmap(model: nn.Module) -> bool:
    """Tell if a module is a function of parameters and inputs alone: no buffers, no dropout."""
    dropout = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules())
    return not dropout and not list(model.buffers())


class VmappedTrainer:
    """Trains a cohort with ``torch.func.vmap``.

    Every call has the same shape: smaller cohorts are padded, because kernels may round
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
    cohort_size : int
        Tasks per call.
    """

    name = "vmap"

    def __init__(
        self,
        model: nn.Module,
        data: ClientData,
        test: tuple[npt.NDArray[np.float32], Rows],
        settings: TrainSettings,
        cohort_size: int,
    ) -> None:
        self._model, self._lr, self._slots = model, settings.lr, cohort_size
        self._inputs, self._labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
        self._test = torch.from_numpy(test[0]), torch.from_numpy(test[1])
        self._plan = StepPlan(data, settings)
        self.steps = self._plan.steps
        self._shapes = {name: p.shape for name, p in model.named_parameters()}
        self._models = torch.zeros(cohort_size, flatten_module(model).numel())
        # Fresh memory for every step's examples costs more in page faults than gathering them.
        gathered = (cohort_size * self._plan.width, *self._inputs.shape[1:])
        self._gathered = torch.empty(gathered, dtype=self._inputs.dtype)
        self._gradients = vmap(grad(self._loss))

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        """Write trained minus base model of each task."""
        models = self._models.numpy()
        for slot, task in enumerate(tasks):
            models[slot] = task.base
        models[len(tasks) :] = tasks[0].base
        parameters = self._views(self._models)
        entries = list(parameters.values())
        steps = [self._plan.steps_of(task) for task in tasks]
        rows, weights = self._plan.padded(tasks, self._slots)
        batches = zip(torch.from_numpy(rows), torch.from_numpy(weights), strict=True)
        for step, (picked, weight) in enumerate(batches, 1):
            torch.index_select(self._inputs, 0, picked.reshape(-1), out=self._gathered)
            inputs = self._gathered.view(*picked.shape, *self._inputs.shape[1:])
            gradients = self._gradients(parameters, inputs, self._labels[picked], weight)
            torch._foreach_add_(entries, list(gradients.values()), alpha=-self._lr)
            # Whoever is done stays in the call, which keeps its shape, but is read out now.
            for slot in (slot for slot, last in enumerate(steps) if last == step):
                np.subtract(models[slot], tasks[slot].base, out=out[slot])

    def accuracy(self, params: Vector) -> float:
        """Return the share of the test examples that a model classifies correctly."""
        views = {name: view[0] for name, view in self._views(torch.tensor(params[None])).items()}
        with torch.no_grad():
            logits = functional_call(self._model, views, (self._test[0],))
        return float((logits.argmax(dim=1) == self._test[1]).float().mean())

    def _loss(
        self, parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor, weights: Tensor
    ) -> Tensor:
        logits = functional_call(self._model, parameters, (inputs,))
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return (losses * weights).sum()

    def _views(self, models: Tensor) -> dict[str, Tensor]:
        views, place = {}, 0
        for name, shape in self._shapes.items():
            size = shape.numel()
            views[name] = torch.unflatten(models[:, place : place + size], 1, shape)
            place += size
        return views
