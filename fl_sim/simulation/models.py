"""The models a configuration can name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from fl_protocol.codes import Code, ConfigInvalid
from strategies.layout import Layout
from strategies.roles import Roles
from strategies.update import Vector

MODELS = ("mlp", "logistic", "cnn", "char-mlp")
ON_SYMBOLS = ("char-mlp",)
"""Models of sequences of character codes; all others are models of numbers."""
_SYMBOLS, _EMBEDDING = 256, 8


def dense_sizes(
    name: str, input_shape: Sequence[int], classes: int, hidden: int
) -> tuple[int, ...] | None:
    """Return the layer widths of a fully connected model; None for any other."""
    inputs = int(torch.Size(input_shape).numel())
    return {"mlp": (inputs, hidden, classes), "logistic": (inputs, classes)}.get(name)


def build(name: str, input_shape: Sequence[int], classes: int, hidden: int) -> nn.Module:
    """Build a classifier.

    Parameters
    ----------
    name : {"mlp", "logistic", "cnn", "char-mlp"}
        One hidden layer of ReLU; multinomial logistic regression; two strided convolutions on
        square one-channel images; an embedding of character codes and one hidden layer.
    input_shape : sequence of int
        Shape of one example.
    classes : int
        Number of classes.
    hidden : int
        Width of the hidden layer.

    Raises
    ------
    ConfigInvalid
        If there is no such model, or it does not fit the data.
    """
    if sizes := dense_sizes(name, input_shape, classes, hidden):
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])
    if name == "cnn":
        return _cnn(input_shape, classes)
    if name == "char-mlp":
        length = int(torch.Size(input_shape).numel())
        return nn.Sequential(
            nn.Embedding(_SYMBOLS, _EMBEDDING),
            nn.Flatten(),
            nn.Linear(length * _EMBEDDING, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )
    raise _invalid(f"train.model: there is no model {name!r}; choose one of {', '.join(MODELS)}.")


def initial_model(model: nn.Module) -> Vector:
    """Return a model's weights as one vector, in the order of its ``state_dict``."""
    arrays = _arrays(model)
    return Layout.of(arrays).flatten(arrays)


def roles_of(model: Callable[[], nn.Module]) -> Roles:
    """Return what the columns of a model's vector hold; draws no random numbers of others."""
    with torch.random.fork_rng(devices=[]):
        return Layout.of(_arrays(model())).roles


def _arrays(model: nn.Module) -> dict[str, npt.NDArray[Any]]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def seeded(seed: int, name: str, input_shape: Sequence[int], classes: int, hidden: int) -> Vector:
    """Return the initial weights of a classifier, see `build`, that belong to a seed."""
    return drawn(seed, lambda: build(name, input_shape, classes, hidden))


def drawn(seed: int, model: Callable[[], nn.Module]) -> Vector:
    """Return the weights with which a module is built from the random numbers of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return initial_model(model())


def _cnn(input_shape: Sequence[int], classes: int) -> nn.Module:
    side = round(float(torch.Size(input_shape).numel()) ** 0.5)
    if side * side != torch.Size(input_shape).numel() or side < 12:
        raise _invalid(
            f"train.model: cnn needs square images of 12 x 12 and more, not {tuple(input_shape)}."
        )
    last = ((side - 3) // 2 - 3) // 2
    return nn.Sequential(
        nn.Flatten(),
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * last * last, classes),
    )


def _invalid(sentence: str) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, sentence)
