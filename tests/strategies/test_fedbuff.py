"""FedBuff against its paper (2106.06639, algorithm 1), worked out by hand."""

import numpy as np
import pytest

from strategies import FedBuff
from tests.strategies.helpers import accept, advance, engine_of, merge_of, update, vector


def test_fresh_buffer_moves_the_model_by_the_mean_delta():
    engine = engine_of(FedBuff(buffer_size=2), 10.0, 20.0)

    merge = merge_of(engine, update([1, 0], client="a"), update([3, 4], client="b"))

    np.testing.assert_array_equal(merge.params, vector(12, 22))
    assert merge.weights == (0.5, 0.5)
    assert merge.version == engine.version == 1


@pytest.mark.parametrize(
    ("normalise", "expected", "weights"),
    [
        ("count", (0.5, 0.5), (0.5, 0.25)),
        ("sum", (2 / 3, 2 / 3), (2 / 3, 1 / 3)),
    ],
)
def test_stale_update_counts_one_over_sqrt_one_plus_tau(normalise, expected, weights):
    # given tau = 3, so s = (1 + 3) ** -0.5 = 0.5
    engine = engine_of(FedBuff(buffer_size=2, normalise=normalise), 0.0, 0.0)
    advance(engine, 3)

    merge = merge_of(engine, update([1, 0], client="a", base=3), update([0, 2], client="b", base=0))

    np.testing.assert_allclose(merge.params, expected, rtol=1e-6)
    assert merge.weights == pytest.approx(weights)


def test_server_learning_rate_and_momentum_scale_the_step():
    # m1 = 1, x1 = 0.5 * 1; m2 = 0.5 * 1 + 2 = 2.5, x2 = 0.5 + 0.5 * 2.5
    engine = engine_of(FedBuff(buffer_size=1, server_lr=0.5, server_momentum=0.5))

    accept(engine, update([1], client="a"), update([2], client="b", base=1))

    np.testing.assert_allclose(engine.params, [1.75])


def test_number_of_examples_does_not_matter():
    engine = engine_of(FedBuff(buffer_size=2))

    merge = merge_of(
        engine, update([0], client="a", examples=1000), update([2], client="b", examples=1)
    )

    np.testing.assert_array_equal(merge.params, vector(1))


def test_published_mean_averages_the_versions():
    engine = engine_of(FedBuff(buffer_size=1, published_rounds=10.0))

    accept(engine, update([1], client="a"), update([1], client="b", base=1))

    np.testing.assert_allclose(engine.params, [2.0])
    np.testing.assert_allclose(engine.published, [1.5])


def test_waits_for_a_full_buffer_unless_a_longest_wait_is_set():
    patient = engine_of(FedBuff(buffer_size=3))
    hurried = engine_of(FedBuff(buffer_size=3, max_wait=60.0))
    for engine in (patient, hurried):
        engine.offer(update([1], client="first"), now=100.0)
        engine.offer(update([1], client="second"), now=150.0)

    assert not patient.ready(1e9)
    assert not hurried.ready(159.0)
    assert hurried.ready(160.0)
    np.testing.assert_array_equal(hurried.merge(160.0).params, vector(1))
