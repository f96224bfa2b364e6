"""FedAvg, CA2FL, FADAS and FedStaleWeight against their papers, worked out by hand."""

import numpy as np
import pytest

from strategies import CA2FL, FADAS, FedAvg, FedStaleWeight, Reject
from tests.strategies.helpers import accept, advance, engine_of, merge_of, refusal, update


def test_fedavg_weighs_deltas_by_examples():
    # 10 + (1 * 1 + 3 * 4) / 4
    engine = engine_of(FedAvg(buffer_size=2), 10.0)

    merge = merge_of(
        engine, update([1], client="a", examples=1), update([4], client="b", examples=3)
    )

    np.testing.assert_allclose(merge.params, [13.25])
    assert merge.weights == (0.25, 0.75)


def test_fedavg_refuses_what_arrives_after_its_round():
    engine = engine_of(FedAvg(buffer_size=2))
    accept(engine, update([1], client="a"), update([1], client="b"))

    assert refusal(engine, update([1], client="late", base=0)) is Reject.TOO_STALE
    accept(engine, update([1], client="late", base=1))


@pytest.mark.parametrize(
    ("size", "over", "cohort"), [(10, 0.3, 13), (3, 0.3, 4), (20, 0.1, 22), (5, 0.0, 5)]
)
def test_fedavg_asks_more_clients_than_it_waits_for(size, over, cohort):
    assert FedAvg(buffer_size=size, over_selection=over).parts().cohort == cohort


def test_ca2fl_adds_innovations_to_the_mean_of_cached_deltas():
    # v1 = 0 + (2 + 4) / 2 = 3;            h = {a: 2, b: 4}
    # v2 = 3 + ((6 - 2) + (1 - 0)) / 2;    h = {a: 6, b: 4, c: 1}
    # v3 = 11/3 + 0, for b and c send what they sent before
    engine = engine_of(CA2FL(buffer_size=2))

    first = merge_of(engine, update([2], client="a"), update([4], client="b"))
    second = merge_of(engine, update([6], client="a", base=1), update([1], client="c", base=1))
    third = merge_of(engine, update([4], client="b", base=2), update([1], client="c", base=2))

    np.testing.assert_allclose(first.params, [3.0])
    np.testing.assert_allclose(second.params, [8.5])
    np.testing.assert_allclose(third.params, [8.5 + 11 / 3], rtol=1e-6)


def test_ca2fl_compares_both_updates_of_a_client_with_its_word_before_the_buffer():
    # x1 = (2 + 0) / 2;  x2 = x1 + mean {2, 0};  x3 = x2 + mean {2, 0, 0} + (2 + 4) / 2
    engine = engine_of(CA2FL(buffer_size=2))
    accept(engine, update([2], client="a"), update([0], client="b"))
    accept(engine, update([0], client="x", base=0), update([0], client="x", base=1))
    assert engine.params[0] == 2.0

    merge = merge_of(engine, update([6], client="a", base=2), update([4], client="a", base=1))

    np.testing.assert_allclose(merge.params, [2 + 2 / 3 + 3], rtol=1e-6)
    assert engine.cache.entries["a"].row[0] == 6.0


def test_fadas_steps_by_first_moment_over_root_of_largest_second_moment():
    # D = 2: m = 0.2, v = u = 0.04, step 0.1 * 0.2 / 0.2
    # D = 0: m = 0.18, v = 0.0396, u = 0.04, step 0.1 * 0.18 / 0.2
    engine = engine_of(FADAS(buffer_size=2, server_lr=0.1))

    first = merge_of(engine, update([1], client="a"), update([3], client="b"))
    second = merge_of(engine, update([0], client="a", base=1), update([0], client="b", base=1))

    np.testing.assert_allclose(first.params, [0.1], rtol=1e-5)
    np.testing.assert_allclose(second.params, [0.19], rtol=1e-5)


@pytest.mark.parametrize(
    ("threshold", "staleness", "rate"), [(1, 0, 0.5), (1, 1, 0.5), (1, 4, 0.25), (None, 4, 0.5)]
)
def test_fadas_shortens_the_step_of_a_late_buffer(threshold, staleness, rate):
    # m / sqrt(u) = 0.2 / 0.2 = 1 for the first update that is not zero
    engine = engine_of(FADAS(buffer_size=1, server_lr=0.5, delay_threshold=threshold))
    advance(engine, staleness)

    merge = merge_of(engine, update([2], client="late", base=0))

    np.testing.assert_allclose(merge.params, [rate], rtol=1e-5)


@pytest.mark.parametrize(("staleness", "rate"), [(0, 0.5), (1, 0.5), (2, 0.25), (4, 0.125)])
def test_fadas_divides_the_rate_by_the_delay_as_its_authors_code_does(staleness, rate):
    # m / sqrt(u) = 1 as above; beyond tau_c = 1 the rate is 0.5 / tau
    recipe = FADAS(buffer_size=1, server_lr=0.5, delay_threshold=1, delay_rule="division")
    engine = engine_of(recipe)
    advance(engine, staleness)

    merge = merge_of(engine, update([2], client="late", base=0))

    np.testing.assert_allclose(merge.params, [rate], rtol=1e-5)


def test_fadas_survives_an_update_whose_square_overflows():
    engine = engine_of(FADAS(buffer_size=1))

    accept(engine, update([1e25], client="a"), update([1], client="b", base=1))

    assert np.isfinite(engine.params).all()


def test_fedstaleweight_weighs_clients_by_their_mean_staleness():
    # buffer 1: a and b fresh
    # buffer 2: a fresh (mean 0 -> 1), c one version late (mean 1 -> 2): (1 * 1 + 2 * 4) / 3
    # buffer 3: c fresh (mean 0.5 -> 1.5), d two versions late (-> 3): (1.5 * 3 + 3 * 6) / 4.5
    engine = engine_of(FedStaleWeight(buffer_size=2))

    first = merge_of(engine, update([1], client="a"), update([3], client="b"))
    second = merge_of(engine, update([1], client="a", base=1), update([4], client="c", base=0))
    third = merge_of(engine, update([3], client="c", base=2), update([6], client="d", base=0))

    np.testing.assert_allclose(first.params, [2.0])
    np.testing.assert_allclose(second.params, [5.0])
    assert second.weights == pytest.approx((1 / 3, 2 / 3))
    np.testing.assert_allclose(third.params, [10.0], rtol=1e-6)
