"""Ways to take a test set out of a data set and to split the rest among clients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.data.examples import Examples, Rows


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


def thin_out(examples: Examples, classes: Sequence[int], keep: float, seed: int = 0) -> Examples:
    """Keep only the share `keep` of the examples of the given classes."""
    rng = np.random.default_rng((seed, 3))
    kept = np.ones(len(examples), dtype=bool)
    for label in classes:
        rows = rng.permutation(np.flatnonzero(examples.labels == label))
        kept[rows[round(keep * len(rows)) :]] = False
    return examples.take(np.flatnonzero(kept))


def dirichlet_partition(
    labels: Rows, num_clients: int, alpha: float, seed: int = 0
) -> tuple[Rows, ...]:
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

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if the examples do not reach for two per client.
    """
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    if 2 * num_clients > len(labels):
        raise _too_many_clients(num_clients, f"two each of {len(labels)} training examples")
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
    try:
        with warnings.catch_warnings():
            # It warns on each redraw for a client with too little, and fails after ten.
            warnings.filterwarnings("ignore", "The specified min_partition_size")
            parts = [partitioner.load_partition(i)["row"] for i in range(num_clients)]
    except ValueError:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"No Dirichlet partition with alpha {alpha:g} gives each of {num_clients} clients "
            "two examples; raise alpha or lower the number of clients.",
        ) from None
    return tuple(np.asarray(part, dtype=np.int64) for part in parts)


def iid_partition(num_examples: int, num_clients: int, seed: int = 0) -> tuple[Rows, ...]:
    """Split example numbers at random into parts whose sizes differ by at most one.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if there are more clients than examples.
    """
    if num_clients > num_examples:
        raise _too_many_clients(num_clients, f"one each of {num_examples} training examples")
    order = np.random.default_rng((seed, 5)).permutation(num_examples)
    return tuple(np.sort(part) for part in np.array_split(order, num_clients))


def natural_partition(
    users: Rows, num_users: int, num_clients: int, seed: int = 0
) -> tuple[tuple[Rows, ...], Rows]:
    """Give each client all examples of one user, and of nobody else.

    Parameters
    ----------
    users : ndarray of int64, shape (n,)
        User of each example, 0 to `num_users` - 1.
    num_users : int
        Number of users.
    num_clients : int
        Number of clients; if there are more users, that many are drawn at random.
    seed : int (default: 0)
        Seed of the draw.

    Returns
    -------
    parts : tuple of ndarray of int64
        Example numbers of each client.
    chosen : ndarray of int64, shape (num_clients,)
        User of each client, in increasing order.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if there are more clients than users.
    """
    if num_clients > num_users:
        raise _too_many_clients(num_clients, f"one each of {num_users} natural users")
    drawn = np.random.default_rng((seed, 6)).choice(num_users, num_clients, replace=False)
    chosen = np.sort(drawn).astype(np.int64)
    order = np.argsort(users, kind="stable")
    starts = np.searchsorted(users[order], chosen, side="left")
    ends = np.searchsorted(users[order], chosen, side="right")
    return tuple(order[a:b] for a, b in zip(starts, ends, strict=True)), chosen


def _too_many_clients(num_clients: int, supply: str) -> ConfigInvalid:
    return ConfigInvalid(
        Code.CONFIG_INVALID,
        f"{num_clients} clients are too many for this data set: it can give {supply}.",
    )
