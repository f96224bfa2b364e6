"""The release rule: who must be in a buffer and how much of it one client may be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import AsyncWA, BadOption, Engine, FedAsync, FedBuff, LeakyRecipe, ReleaseRule
from strategies.release import effective_number
from tests.strategies.helpers import accept, engine_of, merge_of, update


def test_water_filling_by_hand():
    # 2 / 4 = 1 / 2: T = (T + 3) / 2, so T = 3
    rule = ReleaseRule(k=4)

    capped = rule.even_weights("abcd", [100.0, 1.0, 1.0, 1.0])

    assert np.array(capped) / sum(capped) == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert sum(capped) == pytest.approx(103.0)


def test_water_filling_caps_several_clients_at_one_level():
    # 0.4: with two clipped T = 0.4 (2 T + 2), T = 4
    rule = ReleaseRule(k=3, max_share=0.4, min_effective=1.0)

    capped = rule.even_weights("abcd", [50.0, 20.0, 1.0, 1.0])

    assert np.array(capped) / sum(capped) == pytest.approx([0.4, 0.4, 0.1, 0.1])


def test_weights_below_the_cap_are_kept():
    assert ReleaseRule(k=2).even_weights("ab", [3.0, 1.0]) == pytest.approx((3.0, 1.0))


def test_share_counts_all_updates_of_a_client():
    rule = ReleaseRule(k=4, max_per_client=2)

    capped = rule.even_weights("aabcd", [60.0, 40.0, 1.0, 1.0, 1.0])

    assert (capped[0] + capped[1]) / sum(capped) == pytest.approx(1 / 2)
    assert capped[0] / capped[1] == pytest.approx(1.5)


def test_weights_that_would_hide_nobody_are_raised_to_a_hundredth_of_the_mean():
    # the floor is 0.01 / 0.99 of the mean 0.75 of the others, 3 / 4
    rule = ReleaseRule(k=4, min_effective=1.0)

    raised = rule.even_weights("abcd", [1.0, 1.0, 1.0, 1e-9])

    floor = 0.75 * 0.01 / 0.99
    assert np.array(raised) / sum(raised) == pytest.approx(np.array([1, 1, 1, floor]) / (3 + floor))
    assert rule.allows("abcd", raised)
    assert not rule.allows("abcd", [1.0, 1.0, 1.0, 1e-9])


def test_client_whose_updates_weigh_nothing_is_given_a_weight():
    raised = ReleaseRule(k=2, max_per_client=2).even_weights("aab", [0.0, 0.0, 5.0])

    assert raised[0] == raised[1] > 0


def test_of_two_clients_neither_has_more_than_four_fifths():
    capped = ReleaseRule(k=2).even_weights("ab", [100.0, 1.0])

    assert sum(capped) == pytest.approx(101.0)
    assert capped[0] / sum(capped) == pytest.approx(0.7887, abs=1e-3)


def test_stale_updates_keep_a_coefficient_in_the_released_float32():
    recipe = FedBuff(4, staleness_exponent=100.0)
    engine = engine_of(recipe, 0.0, release_rule=ReleaseRule(4))
    for turn in range(12):
        accept(engine, update([0], client=f"w{turn}", base=engine.version))
    before = float(engine.params[0])
    old = [update([1], client="a", base=0), update([0], client="b", base=0)]
    new = [update([0], client=name, base=engine.version) for name in "cd"]

    merge = merge_of(engine, *old, *new)

    assert merge.params[0] - before == pytest.approx(merge.weights[0])
    assert min(merge.weights) >= 0.01 * np.mean(merge.weights) * (1 - 1e-9)


def test_no_cached_delta_vanishes_from_the_mean_of_all():
    recipe = AsyncWA(3, disjoint=True, adaptive=False, volume_exponent=1.0, published_rounds=0.0)
    engine = engine_of(recipe, 0.0, release_rule=ReleaseRule(3))
    accept(
        engine,
        *(
            update([d], client=c, examples=n)
            for c, d, n in (("a", 1, 1), ("b", 0, 1_000_000), ("c", 0, 1_000_000))
        ),
    )
    before = float(engine.params[0])

    merge = merge_of(engine, *(update([0], client=c, base=1) for c in "def"))

    # only the cached mean of a, b and c can move the model
    assert merge.params[0] - before >= 0.01 / 3 * 0.99


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_capped_weights_are_always_allowed_and_keep_their_order(data):
    k = data.draw(st.integers(2, 8))
    rule = ReleaseRule(
        k,
        max_share=data.draw(st.none() | st.floats(1 / k, 1.0)),
        min_effective=data.draw(st.none() | st.floats(1.0, float(k))),
    )
    weight = st.just(0.0) | st.floats(1e-300, 1e6)
    weights = data.draw(st.lists(weight, min_size=k, max_size=12).filter(any))
    clients = [str(index) for index in range(len(weights))]

    capped = rule.even_weights(clients, weights)

    assert rule.allows(clients, capped)
    assert sum(capped) == pytest.approx(sum(weights))
    order = np.argsort(weights)
    assert (np.diff(np.array(capped)[order]) >= -1e-9 * max(capped)).all()


def test_rule_refuses_too_few_clients_dominance_and_low_effective_number():
    rule = ReleaseRule(k=3, max_share=0.9, min_effective=2.0)

    assert rule.allows("abc", [1.0, 1.0, 1.0])
    assert not rule.allows("ab", [1.0, 1.0])
    assert not rule.allows("aabc", [1.0, 1.0, 1.0, 1.0])
    assert not rule.allows("abc", [98.0, 1.0, 1.0])
    assert not rule.allows("abc", [8.0, 1.0, 1.0])


def test_effective_number_of_equal_weights_is_their_count():
    assert effective_number(np.full(7, 1e300)) == pytest.approx(7.0)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 1},
        {"k": 0},
        {"k": 2.0},
        {"k": 4, "max_share": 0.2},
        {"k": 4, "max_share": 1.1},
        {"k": 4, "max_share": float("nan")},
        {"k": 4, "min_effective": 4.5},
        {"k": 4, "min_effective": 0.5},
        {"k": 4, "max_per_client": 0},
    ],
)
def test_refuses_rule_that_protects_nobody_or_can_never_hold(options):
    with pytest.raises(BadOption):
        ReleaseRule(**options)


@pytest.mark.parametrize("recipe", [FedAsync(), AsyncWA(), AsyncWA(drift_correction=False)])
def test_leaky_recipe_is_refused_with_its_reason(recipe):
    with pytest.raises(LeakyRecipe, match=r"LEAKY_RECIPE.*differences.*disjoint") as caught:
        engine_of(recipe, release_rule=ReleaseRule(k=2))

    assert caught.value.code == "LEAKY_RECIPE"


def test_cache_smaller_than_k_is_refused():
    recipe = AsyncWA(disjoint=True, max_clients=3)

    with pytest.raises(BadOption):
        engine_of(recipe, release_rule=ReleaseRule(k=4))


def test_nothing_is_released_below_k_distinct_clients():
    engine = engine_of(
        FedBuff(buffer_size=2, max_wait=1.0), release_rule=ReleaseRule(k=3, max_per_client=2)
    )
    accept(engine, *(update([0], client=name) for name in "abc"))
    for offered in (
        update([1], client="a", base=1),
        update([1], client="d", base=0),
        update([1], client="d", base=1),
    ):
        engine.offer(offered, 0.0)

    assert engine.pending == 3
    assert not engine.ready(1e9)
    engine.offer(update([1], client="b", base=1), 0.0)
    assert engine.ready(0.0)
    assert len(engine.merge(0.0).consumed) == 4


@pytest.mark.parametrize("recipe", [FedBuff(buffer_size=4), FedBuff(4, normalise="sum")])
def test_stale_buffer_dominated_by_one_fresh_client_is_capped(recipe):
    engine = engine_of(recipe, release_rule=ReleaseRule(k=4, max_share=0.3))
    accept(engine, *(update([0], client=name) for name in "abcd"))
    for round_ in range(1, 40):
        accept(engine, *(update([0], client=f"{name}{round_}", base=round_) for name in "abcd"))

    merge = merge_of(
        engine,
        update([0], client="fresh", base=40),
        *(update([0], client=name, base=1) for name in "abc"),
    )

    assert merge.weights[0] / sum(merge.weights) == pytest.approx(0.3)


def test_cached_mean_is_capped_as_well_as_the_buffer():
    # one client claims all the data; unhindered, the cached mean would be its delta alone
    recipe = AsyncWA(4, disjoint=True, adaptive=False, volume_exponent=1.0)
    rule = ReleaseRule(k=4)
    engine = Engine(recipe, np.zeros(4, np.float32), release_rule=rule)
    basis = np.eye(4, dtype=np.float32)
    examples = [1_000_000, 1, 1, 1]
    for base in range(3):
        before = engine.params.copy()
        accept(
            engine,
            *(
                update(basis[index], client=str(index), base=base, examples=examples[index])
                for index in range(4)
            ),
        )

    step = engine.params - before

    np.testing.assert_allclose(step, [1 / 2, 1 / 6, 1 / 6, 1 / 6], rtol=1e-5)


def test_cached_mean_of_fewer_than_k_clients_is_not_released():
    recipe = AsyncWA(3, disjoint=True, adaptive=False, max_clients=3, volume_exponent=0.0)
    engine = engine_of(recipe, release_rule=ReleaseRule(k=3))
    accept(engine, update([9], client="a"), *(update([0], client=name) for name in "bc"))
    before = engine.params.copy()

    # b and c leave the cache for d and e; a repeats itself, so its word alone is the mean
    accept(
        engine,
        update([9], client="a", base=1),
        *(update([0], client=name, base=1) for name in "de"),
    )

    np.testing.assert_array_equal(engine.params, before)
