"""Multi-layer perceptrons and logistic regression by hand, in numpy.

Cross-entropy, ReLU between layers, SGD. The products of all clients of a tile are one
stacked ``matmul``, which numpy computes client by client with the same routine whatever the
number of clients, so nothing has to be padded for a result to be independent of its cohort.

Activations are held units x examples: with few examples and wide layers, OpenBLAS multiplies
``weights @ inputs.T`` nearly twice as fast as ``inputs @ weights.T``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from fl_client.optimiser import Descent
from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData, Models, Rows, Task, TestData
from fl_sim.cohort.order import StepPlan
from strategies.update import Vector

Floats = npt.NDArray[np.float32]
Layers = list[tuple[Floats, Floats]]

# Models and gradients of a tile: of 0.5 to 16 MiB, 4 MiB was the fastest for 51,000 parameters.
# Larger tiles leave the cache, smaller ones pay for more calls.
_TILE_FLOATS = 1 << 20
_LARGEST_TILE = 32
# Test examples at a time, whose activations are to stay near the core.
_TEST_BLOCK = 512


class DenseTrainer:
    """Trains fully connected classifiers.

    The flat model holds, layer after layer, the weights (outputs x inputs) and the biases: the
    order of the ``state_dict`` of a ``torch.nn.Sequential`` of ``Linear`` and ``ReLU``.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden widths if any, classes.
    data : ClientData
        Training examples; their inputs are flattened.
    test : tuple of (ndarray, ndarray)
        Inputs and labels of the test examples.
    settings : TrainSettings
        Local training.
    """

    name = "numpy"

    def __init__(
        self,
        sizes: Sequence[int],
        data: ClientData,
        test: TestData,
        settings: TrainSettings,
    ) -> None:
        self._sizes = list(pairwise(sizes))
        self._inputs = data.inputs.reshape(-1, sizes[0])
        self._labels = data.labels.astype(np.int64, copy=False)
        self._test = test[0].reshape(-1, sizes[0]), test[1]
        self._plan = StepPlan(data, settings)
        self.steps = self._plan.steps
        self.num_params = sum((inputs + 1) * outputs for inputs, outputs in self._sizes)
        tile = max(1, min(_LARGEST_TILE, _TILE_FLOATS // (2 * self.num_params)))
        # Fresh memory for these costs more in page faults than the arithmetic of a small model.
        self._models = np.empty((tile, self.num_params), np.float32)
        self._changes = np.empty_like(self._models)
        self._gathered = np.empty((tile, self._plan.width, sizes[0]), np.float32)
        # With plain SGD a gradient is computed as the change it makes; other rules are given it.
        rule = settings.optimiser
        self._factor = np.float32(-rule.lr if rule.plain else 1.0)
        self._descents = [] if rule.plain else [Descent(rule, [m]) for m in _tensors(self._models)]
        # Where the logit of class 0 of each example of a tile lies in memory.
        width = self._plan.width
        self._first = np.arange(tile)[:, None] * (sizes[-1] * width) + np.arange(width)

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        """Write trained minus base model of each task."""
        # What diverges is for the engine to refuse, and the run's complaint to tell.
        with np.errstate(over="ignore", invalid="ignore"):
            for tile in self._plan.tiles(tasks, len(self._models)):
                self._train_tile([tasks[place] for place in tile], [out[place] for place in tile])

    def accuracies(self, models: Models) -> list[float]:
        """Return the share of the test examples that each model classifies correctly."""
        (weights, bias), *layers = self._layers(models)
        # One product of the first layers of all models, by far the largest part of the work.
        first = weights.reshape(-1, weights.shape[2])
        right = np.zeros(len(models), np.int64)
        for start in range(0, len(self._test[1]), _TEST_BLOCK):
            inputs, labels = (part[start : start + _TEST_BLOCK] for part in self._test)
            hidden = (first @ inputs.T).reshape(len(models), -1, len(labels))
            hidden += bias
            if layers:
                np.maximum(hidden, np.float32(0), out=hidden)
                hidden = self._forward(layers, hidden.swapaxes(1, 2))[-1]
            right += np.count_nonzero(hidden.argmax(axis=1) == labels, axis=1)
        return [count / len(self._test[1]) for count in right.tolist()]

    def _train_tile(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        for model, task in zip(self._models, tasks, strict=False):
            np.copyto(model, task.base)
        for descent in self._descents:
            descent.begin()
        rows, scales = self._plan.padded(tasks, len(tasks))
        labels = self._labels[rows]
        scales *= self._factor
        steps = np.array([self._plan.steps_of(task) for task in tasks])
        lefts = np.count_nonzero(steps > np.arange(len(rows))[:, None], axis=1).tolist()
        active = 0
        for step, left in enumerate(lefts):
            if left != active:
                active = left
                models, changes = self._models[:active], self._changes[:active]
                layers, layer_changes = self._layers(models), self._layers(changes)
                inputs = self._gathered[:active]
            # Unlike "raise", "clip" writes into `out` without a copy in between.
            np.take(self._inputs, rows[step, :active], axis=0, out=inputs, mode="clip")
            activations = self._forward(layers, inputs)
            error = activations.pop()
            self._differentiate(error, labels[step, :active], scales[step, :active])
            self._backward(layers, layer_changes, activations, error)
            if not self._descents:
                models += changes
                continue
            for descent, gradient in zip(self._descents, _tensors(changes), strict=False):
                descent.step([gradient])
        for model, task, delta in zip(self._models, tasks, out, strict=False):
            np.subtract(model, task.base, out=delta)

    def _layers(self, models: Floats) -> Layers:
        layers, place = [], 0
        for inputs, outputs in self._sizes:
            end = place + inputs * outputs
            weights = models[:, place:end].reshape(-1, outputs, inputs)
            layers.append((weights, models[:, end : end + outputs, None]))
            place = end + outputs
        return layers

    def _forward(self, layers: Layers, inputs: Floats) -> list[Floats]:
        """Return the activations of all layers, units x examples; `inputs` is the other way."""
        activations = [inputs.swapaxes(1, 2)]
        for weights, bias in layers:
            hidden = np.matmul(weights, activations[-1])
            hidden += bias
            activations.append(hidden)
            if len(activations) <= len(layers):
                np.maximum(hidden, np.float32(0), out=hidden)
        return activations

    def _differentiate(self, logits: Floats, labels: Rows, scales: Floats) -> None:
        """Turn logits into `scales` times the gradient of the cross-entropies of the examples."""
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        scales = scales[:, None, :]
        logits *= scales / logits.sum(axis=1, keepdims=True)
        rights = self._first[: len(logits)] + labels * logits.shape[2]
        logits.reshape(-1)[rights] -= scales[:, 0]

    def _backward(
        self, layers: Layers, changes: Layers, activations: list[Floats], error: Floats
    ) -> None:
        for number in reversed(range(len(layers))):
            weights_change, bias_change = changes[number]
            inputs = activations[number]
            np.matmul(error, inputs.swapaxes(1, 2), out=weights_change)
            np.sum(error, axis=2, keepdims=True, out=bias_change)
            if number:
                error = np.matmul(layers[number][0].swapaxes(1, 2), error)
                error *= inputs > 0


def _tensors(rows: Floats) -> tuple[torch.Tensor, ...]:
    return torch.from_numpy(rows).unbind()
