"""The jobs every simulator runs. Needs numpy only, so it imports in every environment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

CLIENTS, EXAMPLES, FEATURES, CLASSES = 100, 80, 784, 10
BATCH_SIZE, LR = 16, 0.01
STEPS = EXAMPLES // BATCH_SIZE
MERGE_EVERY = 20
"""Updates per merge: the cohort of a synchronous simulator, the buffer of an asynchronous one."""
SEED = 1

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """A fully connected classifier with ReLU between its layers.

    Attributes
    ----------
    name : str
        Name on the command line.
    widths : tuple of int
        Layer widths, inputs first.
    """

    name: str
    widths: tuple[int, ...]

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(self.widths))


JOBS = {
    job.name: job
    for job in (Job("mlp", (FEATURES, 64, CLASSES)), Job("logistic", (FEATURES, CLASSES)))
}


@lru_cache(maxsize=1)
def training_data() -> tuple[Floats, Labels]:
    """Return inputs and labels of all clients, client after client."""
    rng = np.random.default_rng(SEED)
    teacher = rng.normal(size=(FEATURES, CLASSES))
    inputs = rng.uniform(-1, 1, (CLIENTS * EXAMPLES, FEATURES)).astype(np.float32)
    return inputs, (inputs @ teacher).argmax(axis=1)


def client_data(client: int) -> tuple[Floats, Labels]:
    """Return inputs and labels of one client."""
    inputs, labels = training_data()
    rows = slice(client * EXAMPLES, (client + 1) * EXAMPLES)
    return inputs[rows], labels[rows]


def initial_weights(job: Job) -> list[Floats]:
    """Return weight (outputs, inputs) and bias of each layer, as PyTorch would draw them."""
    rng = np.random.default_rng(SEED)
    weights = []
    for inputs, outputs in pairwise(job.widths):
        bound = inputs**-0.5
        for shape in ((outputs, inputs), (outputs,)):
            weights.append(rng.uniform(-bound, bound, shape).astype(np.float32))
    return weights


def training_loss(weights: list[Floats]) -> float:
    """Return the mean cross-entropy of a model over all clients' examples.

    Parameters
    ----------
    weights : list of ndarray
        Shaped as `initial_weights`.
    """
    hidden, labels = training_data()
    for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
        hidden = np.maximum(hidden @ weight.T + bias, 0)
    logits = (hidden @ weights[-2].T + weights[-1]).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(labels)), labels]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen))
