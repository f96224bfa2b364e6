"""FedAsync against its paper (1903.03934, algorithm 1 and section 5), worked out by hand."""

import numpy as np
import pytest

from strategies import FedAsync, Limits
from tests.strategies.helpers import accept, advance, engine_of, merge_of, update


def test_mixes_the_client_model_by_mixing_times_staleness_weight():
    # w1 = 0.4 * 0 + 0.6 * 1 = 0.6
    # w2: client model 0 + 1 = 1, tau = 1, a s = 0.6 / sqrt(2) = 0.4242641
    #     0.5757359 * 0.6 + 0.4242641 * 1 = 0.7697056
    engine = engine_of(FedAsync())

    first = merge_of(engine, update([1], client="a", base=0))
    second = merge_of(engine, update([1], client="b", base=0))

    np.testing.assert_allclose(first.params, [0.6], rtol=1e-6)
    np.testing.assert_allclose(second.params, [0.7697056], rtol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "staleness", "weight"),
    [
        (FedAsync(staleness="constant"), 7, 1.0),
        (FedAsync(staleness="polynomial"), 3, 0.5),
        (FedAsync(staleness="polynomial", staleness_exponent=1.0), 3, 0.25),
        (FedAsync(staleness="hinge"), 4, 1.0),
        (FedAsync(staleness="hinge"), 5, 1 / 11),
        (FedAsync(staleness="hinge", hinge_slope=1.0, hinge_delay=2.0), 5, 1 / 4),
    ],
)
def test_staleness_functions_follow_the_paper(recipe, staleness, weight):
    engine = engine_of(recipe)
    advance(engine, staleness)

    merge = merge_of(engine, update([1], client="late", base=0))

    assert merge.weights == pytest.approx((weight,))
    np.testing.assert_allclose(merge.params, [0.6 * weight], rtol=1e-6)


def test_client_model_is_taken_from_the_version_it_trained_from():
    # w1 = 0.5 * 8 = 4; the late client's model is 0 + 2, whatever w1 is: w2 = (4 + 2) / 2
    engine = engine_of(FedAsync(mixing=0.5, staleness="constant"))

    accept(engine, update([8], client="a", base=0), update([2], client="b", base=0))

    np.testing.assert_allclose(engine.params, [3.0])


def test_models_are_kept_exactly_as_long_as_updates_from_them_are_accepted():
    engine = engine_of(FedAsync(staleness="constant"), limits=Limits(max_staleness=3))
    advance(engine, 10)

    merge = merge_of(engine, update([1], client="late", base=7))

    np.testing.assert_allclose(merge.params, [0.6], rtol=1e-6)
    assert len(engine.models) == 4
