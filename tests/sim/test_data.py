from __future__ import annotations

import numpy as np
import pytest

from fl_sim.data import dirichlet_partition, federated_mnist, mnist_5k, stratified_split
from fl_sim.devices import lognormal_devices


def test_mnist_has_500_images_of_each_digit_scaled_to_one() -> None:
    digits = mnist_5k()
    assert digits.images.shape == (5000, 784)
    assert digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0.0, 1.0)
    assert np.bincount(digits.labels).tolist() == [500] * 10


def test_split_is_balanced_and_loses_nothing() -> None:
    train, test = stratified_split(mnist_5k(), 1000, seed=3)
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert np.bincount(train.labels).tolist() == [400] * 10
    together = np.concatenate([train.images, test.images]).sum(axis=0)
    assert together == pytest.approx(mnist_5k().images.sum(axis=0), rel=1e-4)


def test_partition_gives_every_example_to_exactly_one_client() -> None:
    labels = mnist_5k().labels[::5]
    parts = dirichlet_partition(labels, 12, alpha=0.3, seed=1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


def test_smaller_alpha_gives_clients_fewer_classes() -> None:
    labels = mnist_5k().labels

    def largest_share(alpha: float) -> float:
        parts = dirichlet_partition(labels, 10, alpha=alpha, seed=1)
        return float(np.mean([np.bincount(labels[p]).max() / len(p) for p in parts]))

    assert largest_share(0.1) > 0.4 > 0.2 > largest_share(100.0)


def test_the_same_seed_gives_the_same_federation() -> None:
    one, other = federated_mnist(8, seed=6), federated_mnist(8, seed=6)
    assert one.rare_classes == other.rare_classes
    for a, b in zip(one.clients, other.clients, strict=True):
        assert np.array_equal(a.images, b.images)


def test_rare_classes_are_thinned_out_and_sit_on_the_slowest_clients() -> None:
    data = federated_mnist(20, seed=6)
    counts = np.bincount(np.concatenate([c.labels for c in data.clients]), minlength=10)
    assert [counts[label] for label in data.rare_classes] == [200, 200, 200]
    assert counts.sum() == 7 * 400 + 3 * 200

    shares = data.rare_shares()
    devices = lognormal_devices(20, seed=6, slowness=shares)
    slowest = np.argsort(devices.seconds)[-10:]
    assert sum(shares[client] for client in slowest) > 0.8
