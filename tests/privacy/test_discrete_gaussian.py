"""The sampler against exact probabilities.

Seeds are fixed, so nothing here fails by chance; over random seeds each chi-square would fail once
in ten thousand times.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from scipy.stats import chi2

from strategies import BadOption
from strategies.privacy.discrete_gaussian import DiscreteGaussian

_FAILURE = 1e-4


def seeded(seed: int):
    return np.random.default_rng(seed).bytes


def probabilities(sigma: int, reach: int) -> np.ndarray:
    """Exact to double precision, for -reach to reach."""
    weights = [math.exp(-(y * y) / (2 * sigma * sigma)) for y in range(-reach, reach + 1)]
    return np.array(weights) / math.fsum(weights)


def chi_square_fits(counts: np.ndarray, expected: np.ndarray) -> bool:
    kept = expected >= 5
    statistic = float(np.sum((counts[kept] - expected[kept]) ** 2 / expected[kept]))
    rest, left = counts[~kept].sum(), expected[~kept].sum()
    if left >= 5:
        statistic += (rest - left) ** 2 / left
    return statistic < chi2.ppf(1 - _FAILURE, int(kept.sum()) - 1)


@pytest.mark.parametrize("sigma", [1, 2, 3, 50, 64, 200, 1000])
def test_every_integer_has_its_exact_probability(sigma: int) -> None:
    drawn = DiscreteGaussian(sigma, seeded(sigma)).sample(400_000)
    reach = 14 * sigma
    counts = np.bincount(drawn + reach, minlength=2 * reach + 1).astype(float)
    assert chi_square_fits(counts, len(drawn) * probabilities(sigma, reach))


def test_large_scale_has_the_gaussian_s_quantiles() -> None:
    # At this scale the distribution function is the normal one to within 2^-20.
    sigma = 1 << 20
    drawn = DiscreteGaussian(sigma, seeded(5)).sample(1_000_000) / sigma
    edges = np.linspace(-5, 5, 401)
    normal = np.array([0.0, *(0.5 * math.erfc(-edge / math.sqrt(2)) for edge in edges), 1.0])
    counts = np.histogram(drawn, [-np.inf, *edges, np.inf])[0].astype(float)
    assert chi_square_fits(counts, len(drawn) * np.diff(normal))


def test_tail_is_as_heavy_as_it_should_be() -> None:
    sigma, count = 8, 2_000_000
    drawn = np.abs(DiscreteGaussian(sigma, seeded(6)).sample(count))
    exact = probabilities(sigma, 14 * sigma)
    for far in (24, 32, 36):
        expected = 2 * count * float(exact[14 * sigma + far :].sum())
        assert abs((drawn >= far).sum() - expected) < 4 * math.sqrt(expected)


def test_low_bits_are_uniform_at_a_large_scale() -> None:
    drawn = DiscreteGaussian(1 << 24, seeded(7)).sample(500_000)
    counts = np.bincount(drawn % 256, minlength=256).astype(float)
    assert chi_square_fits(counts, np.full(256, len(drawn) / 256))


def test_words_on_an_edge_are_settled_with_further_bits() -> None:
    class OnEdges:
        """First words equal to the edges of strips, then what decides them, then zeros."""

        def __init__(self) -> None:
            self.queue = [b""]

        def __call__(self, size: int) -> bytes:
            return self.queue.pop(0) if self.queue else bytes(size)

    entropy = OnEdges()
    sampler = DiscreteGaussian(1, entropy)
    edge = sampler._thresholds[2]
    word, rest = edge >> 64, edge & ((1 << 64) - 1)
    for further, strip in ((rest, 3), (rest - 1, 2)):
        entropy.queue = [further.to_bytes(8, "little")]
        assert sampler._strips(np.array([word], np.uint64)).tolist() == [strip]
    entropy.queue = [b"\xff" * 8]
    last = sampler._strips(np.array([2**64 - 1], np.uint64))
    assert last.tolist() == [len(sampler._thresholds)]


def test_verdicts_in_doubt_are_settled_exactly() -> None:
    sampler = DiscreteGaussian(1000, lambda size: bytes(size))
    exponent = 123_457
    chance = math.exp(-exponent / 2e6)
    near = int(chance * 2**64)
    words = np.array([near - 2**30, near + 2**30], np.uint64)
    assert sampler._accepted(words, np.full(2, exponent)).tolist() == [True, False]
    # certain: even the largest word is below a probability of one
    assert sampler._accepted(np.array([2**64 - 1], np.uint64), np.zeros(1, np.int64)).all()


def test_strips_end_exactly_where_they_should() -> None:
    sampler = DiscreteGaussian(1, os.urandom)
    weights = [math.exp(-(y * y) / 2) for y in range(15)]
    shares = np.cumsum(weights) / math.fsum(weights)
    ends = [threshold / 2**128 for threshold in sampler._thresholds]
    np.testing.assert_allclose(ends, shares[:-1], rtol=1e-14)


@pytest.mark.parametrize("sigma", [0, -1, 1.0, True, (1 << 30) + 1])
def test_scale_out_of_range_is_refused(sigma) -> None:
    with pytest.raises(BadOption):
        DiscreteGaussian(sigma, os.urandom)
