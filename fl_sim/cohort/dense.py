"""Multi-layer perceptrons and logistic regression by hand, in numpy.

Cross-entropy, ReLU between layers, plain SGD. The products of all clients of a tile are one
stacked ``matmul``, which numpy computes client by client with the same routine whatever the
number of clients, so nothing has to be padded for a result to be independent of its cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fl_client.trainer import TrainSettings
from fl_sim.cohort.base import ClientData, Rows, Task
from fl_sim.cohort.order import StepPlan
from strategies.update import Vector

Floats = npt.NDArray[np.float32]

# Models and gradients of a tile should stay in the second-level cache: 1 MiB of float32.
_TILE_FLOATS = 1 << 18
_LARGEST_TILE = 32


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
        test: tuple[Floats, Rows],
        settings: TrainSettings,
    ) -> None:
        self._sizes = list(pairwise(sizes))
        self._inputs, self._labels = data.inputs.reshape(-1, sizes[0]), data.labels
        self._test = test[0].reshape(-1, sizes[0]), test[1]
        self._lr = np.float32(settings.lr)
        self._plan = StepPlan(data, settings)
        self.steps = self._plan.steps
        self.num_params = sum((inputs + 1) * outputs for inputs, outputs in self._sizes)
        tile = max(1, min(_LARGEST_TILE, _TILE_FLOATS // (2 * self.num_params)))
        # Fresh memory for these costs more in page faults than the arithmetic of a small model.
        self._models = np.empty((tile, self.num_params), np.float32)
        self._steps = np.empty_like(self._models)
        self._gathered = np.empty((tile, self._plan.width, sizes[0]), np.float32)

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        """Write trained minus base model of each task."""
        # The longest first: whoever is done drops off the end of a tile.
        steps = [self._plan.steps_of(task) for task in tasks]
        order = sorted(range(len(tasks)), key=lambda place: -steps[place])
        for start in range(0, len(tasks), len(self._models)):
            tile = order[start : start + len(self._models)]
            self._train_tile(
                [tasks[place] for place in tile],
                [steps[place] for place in tile],
                [out[place] for place in tile],
            )

    def accuracy(self, params: Vector) -> float:
        """Return the share of the test examples that a model classifies correctly."""
        inputs, labels = self._test
        logits = self._forward(self._layers(params[None]), inputs[None])[-1][0]
        return float(np.mean(logits.argmax(axis=1) == labels))

    def _train_tile(
        self, tasks: Sequence[Task], steps_of: Sequence[int], out: Sequence[Vector]
    ) -> None:
        models, steps, inputs = self._models, self._steps, self._gathered
        for model, task in zip(models, tasks, strict=False):
            np.copyto(model, task.base)
        active = 0
        rows, weights = self._plan.padded(tasks, len(tasks))
        for step, (picked, weight) in enumerate(zip(rows, weights, strict=True)):
            still = sum(step < most for most in steps_of)
            if still != active:
                active = still
                models, steps = models[:active], steps[:active]
                inputs = inputs[:active]
                layers, changes = self._layers(models), self._layers(steps)
            picked, weight = picked[:active], weight[:active]
            # Unlike "raise", "clip" writes into `out` without a copy in between.
            np.take(self._inputs, picked, axis=0, out=inputs, mode="clip")
            activations = self._forward(layers, inputs)
            error = self._error(activations[-1], self._labels[picked], weight)
            self._backward(layers, changes, activations, error)
            models += steps
        for model, task, delta in zip(self._models, tasks, out, strict=False):
            np.subtract(model, task.base, out=delta)

    def _layers(self, models: Floats) -> list[tuple[Floats, Floats]]:
        layers, place = [], 0
        for inputs, outputs in self._sizes:
            end = place + inputs * outputs
            weights = models[:, place:end].reshape(-1, outputs, inputs)
            layers.append((weights, models[:, None, end : end + outputs]))
            place = end + outputs
        return layers

    def _forward(self, layers: list[tuple[Floats, Floats]], inputs: Floats) -> list[Floats]:
        activations = [inputs]
        for weights, bias in layers:
            hidden = np.matmul(activations[-1], weights.swapaxes(1, 2))
            hidden += bias
            activations.append(hidden)
            if len(activations) <= len(layers):
                np.maximum(hidden, np.float32(0), out=hidden)
        return activations

    def _error(self, logits: Floats, labels: Rows, weight: Floats) -> Floats:
        """Turn logits into minus lr times the gradient of the mean cross-entropy."""
        logits -= logits.max(axis=2, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=2, keepdims=True)
        flat = logits.reshape(-1, logits.shape[2])
        flat[np.arange(len(flat)), labels.ravel()] -= np.float32(1)
        logits *= (weight * -self._lr)[:, :, None]
        return logits

    def _backward(
        self,
        layers: list[tuple[Floats, Floats]],
        changes: list[tuple[Floats, Floats]],
        activations: list[Floats],
        error: Floats,
    ) -> None:
        for number in reversed(range(len(layers))):
            weights_change, bias_change = changes[number]
            inputs = activations[number]
            np.matmul(error.swapaxes(1, 2), inputs, out=weights_change)
            np.sum(error, axis=1, keepdims=True, out=bias_change)
            if number:
                error = np.matmul(error, layers[number][0])
                error *= inputs > 0
