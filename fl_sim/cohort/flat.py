"""Any module, one client at a time, its weights in one flat buffer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData, Models, Rows, Task
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
    """

    name = "flat"

    def __init__(
        self,
        model: nn.Module,
        data: ClientData,
        test: tuple[npt.NDArray[np.float32], Rows],
        settings: TrainSettings,
    ) -> None:
        self._model, self._lr = model, settings.lr
        self._inputs, self._labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
        self._test = torch.from_numpy(test[0]), torch.from_numpy(test[1])
        self._plan = StepPlan(data, settings)
        self.steps = self._plan.steps
        self._flat = flatten_module(model)
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        """Write trained minus base model of each task."""
        self._model.train()
        with torch.random.fork_rng(devices=[]):
            for task, delta in zip(tasks, out, strict=True):
                self._train_one(task)
                np.subtract(self._flat.numpy(), task.base, out=delta)

    def accuracies(self, models: Models) -> list[float]:
        """Return the share of the test examples that each model classifies correctly."""
        return [self._accuracy(model) for model in models]

    def _accuracy(self, params: Vector) -> float:
        self._load(params)
        self._model.eval()
        with torch.no_grad():
            logits = self._model(self._test[0])
        return float((logits.argmax(dim=1) == self._test[1]).float().mean())

    def _load(self, params: Vector) -> None:
        np.copyto(self._flat.numpy(), params)

    def _train_one(self, task: Task) -> None:
        self._load(task.base)
        torch.default_generator.manual_seed(self._plan.seed(task))
        for batch in self._plan.batches(task):
            rows = torch.from_numpy(batch)
            logits = self._model(self._inputs[rows])
            loss = functional.cross_entropy(logits, self._labels[rows])
            found = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            pairs = zip(self._parameters, found, strict=True)
            used = [(entry, gradient) for entry, gradient in pairs if gradient is not None]
            with torch.no_grad():
                torch._foreach_add_(*map(list, zip(*used, strict=True)), alpha=-self._lr)


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
