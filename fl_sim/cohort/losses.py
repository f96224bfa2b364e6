"""Losses, which clients train on, and metrics, which evaluations report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Takes outputs (n, ...) and targets (n, ...) and returns the loss of each example, shape (n,).

Clients train on the mean over a batch, which the trainer takes: examples of several clients, and
examples that only fill up a call, go through the loss together. An example's loss may depend on
nothing but its own output and target.
"""

Metric: TypeAlias = Callable[[Tensor, Tensor], Tensor | float]
"""Takes outputs (n, ...) and targets (n, ...) of all test examples and returns one number."""


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropies of logits (n, classes) and class numbers (n,)."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of each example; both arguments have the shape (n, ...).

    Raises
    ------
    ValueError
        If the shapes differ, which broadcasting would hide.
    """
    if outputs.shape != targets.shape:
        raise ValueError(f"outputs are {tuple(outputs.shape)}, targets {tuple(targets.shape)}")
    return (outputs - targets).square().reshape(len(outputs), -1).mean(1)


def share_right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of examples whose largest logit is that of their class."""
    return (outputs.argmax(dim=1) == targets).float().mean()
