"""Any module, one client at a time, its weights in one flat buffer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fl_client.optimiser import Descent
from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData, Models, Task, TestData
from fl_sim.cohort.losses import Loss, Metric, cross_entropy, share_right
from fl_sim.cohort.order import StepPlan
from strategies.update import Vector


class FlatTrainer:
    """Trains modules whose floating-point entries are views into one vector.

    Starting from a base and taking the delta are then one operation each instead of one per
    tensor; dropout masks and running statistics are those of ``fl_client.trainer``.

    Parameters
    ----------
    model : nn.Module
        The module; its tensors are replaced.
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
    """

    name = "flat"

    def __init__(
        self,
        model: nn.Module,
        data: ClientData,
        test: TestData,
        settings: TrainSettings,
        loss: Loss = cross_entropy,
        metric: Metric = share_right,
    ) -> None:
        self._model, self._loss, self._metric = model, loss, metric
        self._inputs, self._labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
        self._test = torch.from_numpy(test[0]), torch.from_numpy(test[1])
        self._plan = StepPlan(data, settings)
        self.steps = self._plan.steps
        self._flat = flatten_module(model)
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._descent = Descent(settings.optimiser, self._parameters)

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        """Write trained minus base model of each task."""
        self._model.train()
        with torch.random.fork_rng(devices=[]):
            for task, delta in zip(tasks, out, strict=True):
                self._train_one(task)
                np.subtract(self._flat.numpy(), task.base, out=delta)

    def accuracies(self, models: Models) -> list[float]:
        """Return the metric of each model on the test examples."""
        return [self._accuracy(model) for model in models]

    def _accuracy(self, params: Vector) -> float:
        self._load(params)
        self._model.eval()
        with torch.no_grad():
            return float(self._metric(self._model(self._test[0]), self._test[1]))

    def _load(self, params: Vector) -> None:
        np.copyto(self._flat.numpy(), params)

    def _train_one(self, task: Task) -> None:
        self._load(task.base)
        self._descent.begin()
        torch.default_generator.manual_seed(self._plan.seed(task))
        for batch in self._plan.batches(task):
            rows = torch.from_numpy(batch)
            losses = self._loss(self._model(self._inputs[rows]), self._labels[rows])
            mean = torch.full((len(batch),), 1 / len(batch))
            found = torch.autograd.grad(losses, self._parameters, mean, allow_unused=True)
            self._descent.step(found)


def flatten_module(model: nn.Module) -> Tensor:
    """Move a module's floating-point entries into one vector, in ``state_dict`` order.

    Parameters
    ----------
    model : nn.Module
        Its parameters and buffers become views of the vector.

    Returns
    -------
    Tensor of float32, shape (P,)
    """
    entries = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    flat = torch.cat([tensor.reshape(-1) for tensor in entries])
    owners = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    place = 0
    for entry in entries:
        owner = owners[entry.data_ptr()]
        owner.data = flat[place : place + entry.numel()].view_as(entry)
        place += entry.numel()
    return flat
