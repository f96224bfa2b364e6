from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.data import (
    DATA_SETS,
    Examples,
    FederatedData,
    federated_mnist,
    iid_partition,
    load,
    natural_partition,
)

CLIENTS = {"watch": 20, "shakespeare": 455, "intents": 65}


def contents(*parts: Examples) -> Counter[bytes]:
    return Counter(
        features.tobytes() + label.tobytes()
        for part in parts
        for features, label in zip(part.features, part.labels, strict=True)
    )


def same(one: FederatedData, other: FederatedData) -> bool:
    pairs = zip((*one.clients, one.test), (*other.clients, other.test), strict=True)
    return (one.users, one.rare_classes) == (other.users, other.rare_classes) and all(
        np.array_equal(a.features, b.features) and np.array_equal(a.labels, b.labels)
        for a, b in pairs
    )


@pytest.mark.parametrize("partition", ["dirichlet", "iid", "natural"])
def test_every_training_example_goes_to_exactly_one_client(partition: Any) -> None:
    train = DATA_SETS["watch"].source().train
    data = load("watch", 20, partition, seed=3)
    assert contents(*data.clients) == contents(train)


@pytest.mark.parametrize("name", CLIENTS)
def test_natural_clients_are_whole_users(name: str) -> None:
    source = DATA_SETS[name].source()
    assert source.train_users is not None
    data = load(name, CLIENTS[name], "natural")
    assert data.users == source.users
    assert sum(len(client) for client in data.clients) == len(source.train)
    for user, client in enumerate(data.clients):
        own = np.flatnonzero(source.train_users == user)
        assert np.array_equal(client.features, source.train.features[own])
        assert np.array_equal(client.labels, source.train.labels[own])


def test_fewer_clients_than_users_draw_users_and_test_on_theirs_alone() -> None:
    source = DATA_SETS["watch"].source()
    assert source.test is not None
    assert source.test_users is not None
    data = load("watch", 5, "natural", seed=1)
    chosen = [source.users.index(user) for user in data.users]
    assert len(set(chosen)) == 5
    theirs = source.test.take(np.flatnonzero(np.isin(source.test_users, chosen)))
    assert contents(data.test) == contents(theirs)
    assert load("watch", 5, "natural", seed=2).users != data.users


@pytest.mark.parametrize("partition", ["dirichlet", "iid", "natural"])
def test_the_same_arguments_give_the_same_federation_and_another_seed_another(
    partition: Any,
) -> None:
    one = load("watch", 8, partition, seed=5)
    assert same(one, load("watch", 8, partition, seed=5))
    assert not same(one, load("watch", 8, partition, seed=6))


def test_mnist_by_name_is_the_standard_federation() -> None:
    assert same(load("mnist-5k", 12, alpha=0.2, seed=4), federated_mnist(12, alpha=0.2, seed=4))


def test_iid_clients_have_equal_shares_of_data_without_rare_classes() -> None:
    data = load("mnist-5k", 7, "iid")
    assert {len(client) for client in data.clients} == {571, 572}
    assert data.rare_classes == ()
    assert all(np.bincount(client.labels, minlength=10).min() > 20 for client in data.clients)


def test_test_set_is_no_larger_than_asked_and_balanced() -> None:
    data = load("mnist-5k", 5, "iid", test_size=500)
    assert np.bincount(data.test.labels).tolist() == [50] * 10
    assert len(load("intents", 65, "natural", test_size=1000).test) <= 1000


def test_iid_parts_cover_all_rows_once() -> None:
    parts = iid_partition(103, 10, seed=1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(103))


def test_natural_parts_keep_users_apart() -> None:
    users = np.array([2, 0, 1, 2, 0, 2], dtype=np.int64)
    parts, chosen = natural_partition(users, 3, 3)
    assert chosen.tolist() == [0, 1, 2]
    assert [part.tolist() for part in parts] == [[1, 4], [2], [0, 3, 5]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "mnist", "clients": 5}, "no data set 'mnist'; choose from mnist-5k"),
        ({"name": "watch", "clients": 5, "partition": "users"}, "no partition 'users'"),
        ({"name": "watch", "clients": 0}, "at least 1, not 0"),
        ({"name": "watch", "clients": 5, "alpha": 0.0}, "alpha must be a number above 0"),
        ({"name": "watch", "clients": 5, "alpha": float("nan")}, "alpha must be a number"),
        ({"name": "mnist-5k", "clients": 5, "partition": "natural"}, "no natural users"),
        ({"name": "watch", "clients": 21, "partition": "natural"}, "one each of 20 natural users"),
        ({"name": "watch", "clients": 4000, "partition": "iid"}, "4000 clients are too many"),
        ({"name": "watch", "clients": 2000}, "two each of 3693 training examples"),
        ({"name": "watch", "clients": 5, "test_size": 0}, "test_size must be from 1"),
        ({"name": "mnist-5k", "clients": 5, "test_size": 5000}, "test_size must be from 1"),
        ({"name": "watch", "clients": 5, "num_rare": 8}, "num_rare must be from 0 to 7"),
        (
            {"name": "watch", "clients": 5, "partition": "natural", "num_rare": 1},
            "0 in a natural partition",
        ),
        ({"name": "watch", "clients": 5, "rare_share": 1.5}, "rare_share must be between 0 and 1"),
    ],
)
def test_impossible_request_is_refused_with_the_reason(
    arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigInvalid, match=sentence) as refusal:
        load(**arguments)
    assert refusal.value.code == Code.CONFIG_INVALID


def test_the_test_set_of_shakespeare_is_rounded_down_per_class() -> None:
    assert len(load("shakespeare", 10, "iid").test) == 4970


def test_dirichlet_that_leaves_clients_empty_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="raise alpha or lower the number of clients"):
        load("watch", 500, alpha=0.001)
