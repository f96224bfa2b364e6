"""Labelled examples, a data set ready to be split, and a federation made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Labelled examples of one kind.

    Attributes
    ----------
    features : ndarray, shape (n, ...)
        One row per example: float32 pixels, sensor windows or n-gram weights, or int32
        character numbers. Each data set states its own shape.
    labels : ndarray of int64, shape (n,)
        Class numbers from 0.
    """

    features: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> npt.NDArray[Any]:
        """The features, by the name they have in an image data set."""
        return self.features

    def take(self, rows: Rows) -> Examples:
        """Return a copy of the given rows, in that order."""
        return Examples(self.features[rows], self.labels[rows])

    def freeze(self) -> Examples:
        """Make both arrays read-only, so that a shared copy cannot be changed; return self."""
        self.features.flags.writeable = self.labels.flags.writeable = False
        return self


@dataclass(frozen=True)
class Source:
    """A whole data set before it is split among clients.

    Attributes
    ----------
    train : Examples
        Examples to train on; all examples if there is no `test`.
    test : Examples, optional
        Held-out examples. If None, they are taken out of `train` when the federation is built.
    classes : tuple of str
        Names of the labels.
    users : tuple of str
        Names of the natural users: people, roles, languages. Empty if there are none.
    train_users, test_users : ndarray of int64, shape (n,), optional
        Position in `users` of the user each example belongs to.
    """

    train: Examples
    test: Examples | None
    classes: tuple[str, ...]
    users: tuple[str, ...] = ()
    train_users: Rows | None = None
    test_users: Rows | None = None


@dataclass(frozen=True)
class FederatedData:
    """Training data of each client and a common test set.

    Attributes
    ----------
    clients : tuple of Examples
        Training examples, one entry per client.
    test : Examples
        Held-out examples; balanced over classes in the image data sets.
    rare_classes : tuple of int
        Labels that were thinned out in the training data.
    classes : tuple of str
        Names of the labels.
    users : tuple of str
        Name of each client's user in a natural partition, else empty.
    """

    clients: tuple[Examples, ...]
    test: Examples
    rare_classes: tuple[int, ...]
    classes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    def rare_shares(self) -> tuple[float, ...]:
        """Return the number of rare-class examples of each client as a share of all of them."""
        counts = np.array([np.isin(c.labels, self.rare_classes).sum() for c in self.clients])
        return tuple(float(c) for c in counts / max(1, counts.sum()))
