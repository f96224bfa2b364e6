"""From the name of a data set to the clients' training data and a test set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.data import fashion_mnist, intents, mnist, shakespeare, watch
from fl_sim.data.examples import Examples, FederatedData, Rows, Source
from fl_sim.data.partition import (
    dirichlet_partition,
    iid_partition,
    natural_partition,
    stratified_split,
    thin_out,
)

Partition = Literal["dirichlet", "iid", "natural"]


@dataclass(frozen=True)
class DataSet:
    """A data set that `load` knows.

    Attributes
    ----------
    source : callable
        Returns the whole data set.
    user : str
        What a client of the natural partition is; empty if there is no such partition.
    test_size : int
        Number of test examples unless asked otherwise.
    num_rare : int
        Rare classes of the Dirichlet partition unless asked otherwise.
    """

    source: Callable[[], Source]
    user: str = ""
    test_size: int = 1_000
    num_rare: int = 0


DATA_SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "mnist-5k": DataSet(mnist.source, num_rare=3),
        "fashion-mnist": DataSet(fashion_mnist.source, test_size=10_000, num_rare=3),
        "fashion-mnist-14x14": DataSet(fashion_mnist.pooled_source, test_size=10_000, num_rare=3),
        "watch": DataSet(watch.source, user="one arm of one subject"),
        "shakespeare": DataSet(shakespeare.source, user="a role of a play", test_size=5_000),
        "intents": DataSet(intents.source, user="a language", test_size=5_000),
    }
)


def load(
    name: str,
    clients: int,
    partition: Partition = "dirichlet",
    alpha: float = 0.3,
    seed: int = 0,
    *,
    test_size: int | None = None,
    num_rare: int | None = None,
    rare_share: float = 0.5,
) -> FederatedData:
    """Load a data set and split it among clients; a pure function of its arguments.

    Parameters
    ----------
    name : str
        A key of `DATA_SETS`.
    clients : int
        Number of clients.
    partition : {"dirichlet", "iid", "natural"} (default: "dirichlet")
        How examples are split: by label with Dirichlet proportions, at random, or one user
        per client. A natural partition into fewer clients than users draws users, and tests
        on the held-out examples of those.
    alpha : float (default: 0.3)
        Dirichlet concentration; the smaller, the fewer classes a client holds.
    seed : int (default: 0)
        Seed of split, choice of rare classes and partition.
    test_size : int, optional
        Number of test examples, with the classes' proportions of the whole test set: rounded
        down per class. The default is the data set's.
    num_rare : int, optional
        Number of classes that are rare in the training data. By default three for image data
        in a Dirichlet partition, otherwise none; not possible in a natural partition.
    rare_share : float (default: 0.5)
        Share of their training examples the rare classes keep.

    Raises
    ------
    ConfigInvalid
        CONFIG_INVALID if the name or partition is unknown, a number is out of range, the data
        set cannot be split that way, or its files are missing or not the expected ones.
    """
    data_set = _checked(name, clients, partition, alpha)
    if num_rare is None:
        num_rare = data_set.num_rare if partition == "dirichlet" else 0
    source = data_set.source()
    _check_sizes(source, partition, test_size, num_rare, rare_share)
    size = data_set.test_size if test_size is None else test_size
    if partition == "natural":
        return _by_user(source, clients, size, seed)
    train, test = _with_test(source, size, seed)
    rng = np.random.default_rng((seed, 4))
    drawn = np.sort(rng.choice(len(source.classes), num_rare, replace=False))
    rare = tuple(int(label) for label in drawn)
    train = thin_out(train, rare, rare_share, seed)
    parts = (
        iid_partition(len(train), clients, seed)
        if partition == "iid"
        else dirichlet_partition(train.labels, clients, alpha, seed)
    )
    return FederatedData(_clients(train, parts), test, rare, source.classes)


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

    The same as `load` of "mnist-5k", whose documentation describes the parameters.
    """
    return load(
        "mnist-5k",
        num_clients,
        alpha=alpha,
        seed=seed,
        test_size=test_size,
        num_rare=num_rare,
        rare_share=rare_share,
    )


def _checked(name: str, clients: int, partition: str, alpha: float) -> DataSet:
    if name not in DATA_SETS:
        raise _invalid(f"There is no data set {name!r}; choose from {', '.join(DATA_SETS)}.")
    if partition not in get_args(Partition):
        known = ", ".join(get_args(Partition))
        raise _invalid(f"There is no partition {partition!r}; choose from {known}.")
    if clients < 1:
        raise _invalid(f"The number of clients must be at least 1, not {clients}.")
    if partition == "dirichlet" and not (math.isfinite(alpha) and alpha > 0):
        raise _invalid(f"alpha must be a number above 0, not {alpha}.")
    if partition == "natural" and not DATA_SETS[name].user:
        raise _invalid(f"{name} has no natural users; choose partition dirichlet or iid.")
    return DATA_SETS[name]


def _check_sizes(
    source: Source, partition: str, test_size: int | None, num_rare: int, rare_share: float
) -> None:
    largest = len(source.test) if source.test else len(source.train) - 1
    if test_size is not None and not 1 <= test_size <= largest:
        raise _invalid(f"test_size must be from 1 to {largest}, not {test_size}.")
    if not 0 <= num_rare <= len(source.classes) or (num_rare and partition == "natural"):
        raise _invalid(
            f"num_rare must be from 0 to {len(source.classes)}, and 0 in a natural partition, "
            f"not {num_rare}."
        )
    if not 0 <= rare_share <= 1:
        raise _invalid(f"rare_share must be between 0 and 1, not {rare_share}.")


def _by_user(source: Source, clients: int, test_size: int, seed: int) -> FederatedData:
    assert source.test is not None
    assert source.train_users is not None
    assert source.test_users is not None
    parts, chosen = natural_partition(source.train_users, len(source.users), clients, seed)
    test = source.test.take(np.flatnonzero(np.isin(source.test_users, chosen)))
    return FederatedData(
        _clients(source.train, parts),
        _at_most(test, test_size, seed),
        (),
        source.classes,
        tuple(source.users[user] for user in chosen),
    )


def _with_test(source: Source, test_size: int, seed: int) -> tuple[Examples, Examples]:
    if source.test is None:
        return stratified_split(source.train, test_size, seed)
    return source.train, _at_most(source.test, test_size, seed)


def _at_most(examples: Examples, size: int, seed: int) -> Examples:
    return examples if len(examples) <= size else stratified_split(examples, size, seed)[1]


def _clients(train: Examples, parts: tuple[Rows, ...]) -> tuple[Examples, ...]:
    return tuple(train.take(rows) for rows in parts)


def _invalid(sentence: str) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, sentence)
