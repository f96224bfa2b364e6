"""Local training: mini-batch SGD on tensors held in memory.

Given the same seed, client and base version, the same update comes out, bit for bit, on the
same machine with one thread: data order and dropout masks depend on nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_client.optimiser import SGD, Descent


@dataclass(frozen=True)
class TrainSettings:
    """Settings of local training.

    Attributes
    ----------
    optimiser : SGD
        The local optimiser, by default plain SGD.
    batch_size : int (default: 32)
        Examples per step.
    epochs : int (default: 1)
        Passes over the local data per task.
    seed : int (default: 0)
        Seed of the whole federation; each task derives its own from it.
    steps : int, optional
        If set, take this many steps instead of `epochs` passes: as many passes as that needs,
        the last one cut short.
    """

    optimiser: SGD = field(default_factory=SGD)
    batch_size: int = 32
    epochs: int = 1
    seed: int = 0
    steps: int | None = None


@dataclass(frozen=True)
class Batch:
    """Examples as tensors.

    Attributes
    ----------
    inputs : Tensor, shape (n, ...)
        Model inputs.
    labels : Tensor of int64, shape (n,)
        Class numbers.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def task_seed(seed: int, client: str, base_version: int) -> int:
    """Return the 63-bit seed of one task."""
    digest = hashlib.sha256(f"{seed}|{client}|{base_version}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def mlp(inputs: int = 784, hidden: int = 64, classes: int = 10) -> nn.Sequential:
    """Build a multi-layer perceptron with one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def train(model: nn.Module, data: Batch, settings: TrainSettings, seed: int) -> float:
    """Train a classifier in place.

    Parameters
    ----------
    model : nn.Module
        Model returning logits of shape (n, classes); changed in place.
    data : Batch
        Local examples.
    settings : TrainSettings
        Optimiser, batch size and epochs.
    seed : int
        Seed of data order and dropout, see `task_seed`.

    Returns
    -------
    float
        Mean cross-entropy over the last pass.

    Raises
    ------
    ValueError
        If there are no examples.
    """
    if len(data) == 0:
        raise ValueError("there are no local examples to train on")
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    # torch.optim.SGD costs more than the arithmetic of a small model, and seconds to import.
    descent = Descent(settings.optimiser, parameters)
    order = torch.Generator().manual_seed(seed)
    loss_sum = 0.0
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed accelerators, with a stack trace for each.
        torch.default_generator.manual_seed(seed)
        for batches in passes(len(data), settings, order):
            loss_sum = 0.0
            for rows in batches:
                loss = functional.cross_entropy(model(data.inputs[rows]), data.labels[rows])
                descent.step(torch.autograd.grad(loss, parameters, allow_unused=True))
                loss_sum += loss.item() * len(rows)
    return loss_sum / sum(map(len, batches))


def passes(
    num_examples: int, settings: TrainSettings, order: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the passes of one task over its data, each as the rows of its batches.

    Parameters
    ----------
    num_examples : int
        Number of local examples.
    settings : TrainSettings
        Batch size and number of passes or steps.
    order : torch.Generator
        Source of the shuffles, seeded with `task_seed`.
    """
    for sizes in pass_sizes(num_examples, settings):
        shuffled = torch.randperm(num_examples, generator=order)
        yield torch.split_with_sizes(shuffled[: sum(sizes)], sizes)


def pass_sizes(num_examples: int, settings: TrainSettings) -> list[list[int]]:
    """Return the sizes of the batches of each pass; the order of the examples aside, all of it.

    Parameters
    ----------
    num_examples : int
        Number of local examples.
    settings : TrainSettings
        Batch size and number of passes or steps.
    """
    full, left = divmod(num_examples, settings.batch_size)
    sizes = [settings.batch_size] * full
    if left == 1 and sizes:
        # BatchNorm refuses a batch of one: the odd one out joins the batch before it.
        sizes[-1] += 1
    elif left:
        sizes.append(left)
    if settings.steps is None:
        return [sizes] * settings.epochs
    steps = range(0, settings.steps, len(sizes))
    return [sizes[: settings.steps - begun] for begun in steps]


@torch.no_grad()
def evaluate(model: nn.Module, data: Batch) -> tuple[float, float]:
    """Return (mean cross-entropy, accuracy) of a classifier on the given examples.

    Raises
    ------
    ValueError
        If there are no examples.
    """
    if len(data) == 0:
        raise ValueError("there are no local examples to evaluate on")
    model.eval()
    logits = model(data.inputs)
    loss = functional.cross_entropy(logits, data.labels).item()
    accuracy = (logits.argmax(dim=1) == data.labels).float().mean().item()
    return loss, accuracy
