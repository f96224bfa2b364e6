"""Filters for hostile updates: the papers' rules by hand, and what every one of them promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import AsyncWA, BadOption, Engine, FedBuff, recipe_from
from strategies.robust.clip import clip_scales
from strategies.robust.gram import inner_products, lengths
from strategies.robust.krum import krum_scores, multi_krum
from strategies.robust.ordering import sorted_columns
from strategies.robust.trimmed_mean import median_cut, replace_extremes
from strategies.robust.trusted_direction import trust
from tests.strategies.helpers import accept, engine_of, fast, merge_of, seeds, update, vector

SIZE, BUFFER, HOSTILE = 6, 10, 3
PARAMETERS = {
    "clip": {"clip_norm": 2.0},
    "trimmed-mean": {"attackers": 0.3},
    "median": {},
    "krum": {"attackers": 0.3},
    "trusted-direction": {"trusted_client": "c0"},
}
FILTERS = list(PARAMETERS)
PICKING = ("trimmed-mean", "median", "krum")
RECIPES = {
    "fedbuff": {"staleness_exponent": 0.0},
    "ca2fl": {},
    "async-wa": {"disjoint": True, "adaptive": False, "published_rounds": 0.0},
}

for_every_filter = pytest.mark.parametrize("kind", FILTERS)
for_every_recipe = pytest.mark.parametrize("name", RECIPES)


def filtering(kind, name="fedbuff", size=BUFFER, **options):
    return recipe_from(
        name, buffer_size=size, robust=kind, **(RECIPES[name] | PARAMETERS[kind] | options)
    )


def merged(recipe, rows, base=0, engine=None):
    """Merge one buffer of rows, those of clients c0, c1 and so on; return the step."""
    engine = engine or Engine(recipe, np.zeros(len(rows[0]), np.float32))
    before = engine.params
    merge = merge_of(
        engine, *(update(row, client=f"c{n}", base=base) for n, row in enumerate(rows))
    )
    return merge.params - before


def replaced(columns, weights=None, cut=1):
    rows = np.array(columns, np.float32)
    replace_extremes(rows, np.ones(len(rows)) if weights is None else np.array(weights), cut)
    return rows


# The rules by hand


def test_clipping_shortens_what_is_too_long_and_nothing_else():
    assert clip_scales(np.array([0.0, 1.0, 4.0]), 2.0).tolist() == [1.0, 1.0, 0.5]
    step = merged(filtering("clip", size=2), [[3, 4], [0, 1]])
    np.testing.assert_allclose(step, (vector(1.2, 1.6) + vector(0, 1)) / 2, rtol=1e-6)


def test_trimmed_mean_leaves_the_extremes_of_each_coordinate_out():
    step = merged(
        filtering("trimmed-mean", size=5, attackers=0.2),
        [[1, 100], [2, 2], [3, 4], [4, 6], [-90, 0]],
    )
    np.testing.assert_allclose(step, vector(2, 4), rtol=1e-6)


def test_median_is_the_middle_of_each_coordinate_or_the_mean_of_two():
    np.testing.assert_allclose(
        merged(filtering("median", size=3), [[1, 9], [5, 2], [2, -7]]), vector(2, 2)
    )
    np.testing.assert_allclose(
        merged(filtering("median", size=4), [[1, 9], [5, 2], [2, -7], [8, 4]]), vector(3.5, 3)
    )


def test_values_left_out_are_replaced_by_the_weighted_mean_of_those_kept():
    rows = replaced([[1], [2], [5], [99], [-99]], weights=[1, 3, 1, 7, 7], cut=1)
    np.testing.assert_allclose(rows[:, 0], [1, 2, 5, 2.4, 2.4], rtol=1e-6)


def test_krum_score_sums_the_nearest_squared_distances():
    rows = np.array([[0], [1], [3], [7], [100]], np.float32)
    # m - f - 2 = 2 neighbours each
    scores = krum_scores(inner_products(rows, rows), suspects=1)
    assert scores.tolist() == [1 + 9, 1 + 4, 4 + 9, 16 + 36, 93**2 + 97**2]
    assert multi_krum(inner_products(rows, rows), 1, 3).tolist() == [True, True, True, False, False]


def test_multi_krum_averages_the_chosen_whole_updates():
    recipe = filtering("krum", size=5, attackers=0.2)
    engine = Engine(recipe, np.zeros(1, np.float32))
    merge = merge_of(engine, *(update([value], client=f"c{value}") for value in (0, 1, 3, 7, 100)))
    assert merge.params[0] == pytest.approx((0 + 1 + 3 + 7) / 4)
    assert merge.weights == pytest.approx((0.25, 0.25, 0.25, 0.25, 0.0))


def test_trust_is_the_cosine_and_every_update_as_long_as_the_trusted_one():
    rows = np.array([[4, 0], [3, 4], [0, 9], [-1, 0], [0, 0]], np.float32)
    scores, scales = trust(rows, vector(2, 0))
    np.testing.assert_allclose(scores, [1, 0.6, 0, 0, 0])
    np.testing.assert_allclose(scales, [0.5, 0.4, 2 / 9, 2, 1])


def test_trusted_direction_averages_by_trust():
    step = merged(filtering("trusted-direction", size=3), [[2, 0], [3, 4], [-50, 0]])
    np.testing.assert_allclose(step, (vector(2, 0) + 0.6 * vector(1.2, 1.6)) / 1.6, rtol=1e-6)


def test_trusted_direction_is_remembered_until_its_client_sends_another():
    engine = Engine(filtering("trusted-direction", size=2), np.zeros(2, np.float32))
    accept(engine, update([1, 0], client="x"), update([0, 1], client="y"))
    np.testing.assert_array_equal(engine.params, [0, 0])  # nobody is trusted yet

    accept(engine, update([1, 0], client="c0", base=1), update([-9, 0], client="y", base=1))
    accept(engine, update([0, 7], client="x", base=2), update([5, 0], client="y", base=2))

    np.testing.assert_allclose(engine.params, [2, 0], rtol=1e-6)


# What every filter promises


@for_every_filter
@for_every_recipe
def test_equal_updates_pass_unchanged(kind, name):
    row = np.full(SIZE, 0.5, np.float32)
    np.testing.assert_allclose(merged(filtering(kind, name), [row] * BUFFER), row, rtol=1e-6)


@for_every_filter
@for_every_recipe
@fast
@given(seed=seeds, order=st.permutations(range(BUFFER)))
def test_order_in_the_buffer_does_not_matter(kind, name, seed, order):
    rows = np.random.default_rng(seed).normal(size=(BUFFER, SIZE))
    recipe = filtering(kind, name)
    engines = [Engine(recipe, np.zeros(SIZE, np.float32)) for _ in range(2)]
    for base in range(2):
        for engine, turn in zip(engines, (range(BUFFER), order), strict=True):
            accept(engine, *(update(rows[n] * (base + 1), client=f"c{n}", base=base) for n in turn))
    np.testing.assert_allclose(engines[0].params, engines[1].params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", PICKING)
@fast
@given(seed=seeds, size=st.sampled_from([1.0, 1e3, 2.0**99]), places=st.permutations(range(BUFFER)))
def test_a_minority_cannot_move_the_step_beyond_the_honest_updates(kind, seed, size, places):
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(BUFFER - HOSTILE, SIZE)).astype(np.float32)
    hostile = (size * rng.choice([-1, 1], (HOSTILE, SIZE)) / SIZE).astype(np.float32)
    rows = np.concatenate([honest, hostile])[list(places)]

    step = merged(filtering(kind), rows)

    if kind == "krum":
        # The paper bounds it by the spread of the honest ones.
        spread = np.linalg.norm(honest[:, None] - honest[None], axis=2).max()
        assert np.linalg.norm(step - honest.mean(axis=0)) <= 4 * spread
    else:
        slack = 1e-5 * np.abs(honest).max()
        assert (step >= honest.min(axis=0) - slack).all()
        assert (step <= honest.max(axis=0) + slack).all()


@for_every_recipe
@fast
@given(seed=seeds)
def test_clipping_and_trust_bound_what_each_update_adds(name, seed):
    rows = np.random.default_rng(seed).normal(size=(BUFFER, SIZE)) * 1e6
    rows[0] = vector(1, 0, 0, 0, 0, 0)
    assert np.linalg.norm(merged(filtering("clip", name), rows)) <= 2.0 * (1 + 1e-5)
    assert np.linalg.norm(merged(filtering("trusted-direction", name), rows)) <= 1.0 + 1e-5


@pytest.mark.parametrize("kind", ["trimmed-mean", "krum"])
def test_without_suspects_the_filter_changes_nothing(kind):
    rows = np.random.default_rng(3).normal(size=(BUFFER, SIZE))
    plain = merged(FedBuff(BUFFER, staleness_exponent=0.0), rows)
    np.testing.assert_allclose(merged(filtering(kind, attackers=0.0), rows), plain, rtol=1e-5)


@pytest.mark.parametrize("name", ["ca2fl", "async-wa"])
@pytest.mark.parametrize("kind", PICKING)
def test_what_was_left_out_never_reaches_the_cached_deltas(name, kind):
    engine = Engine(filtering(kind, name), np.zeros(1, np.float32))
    honest = [[1.0]] * (BUFFER - 1)
    merged(None, [*honest, [1e6]], engine=engine)
    # The hostile client is silent now: only what is cached of it could speak for it.
    others = [update([1.0], client=f"d{n}", base=1) for n in range(BUFFER)]
    before = engine.params[0]
    step = merge_of(engine, *others).params[0] - before

    # The cached mean of 1, and innovations of 1 from clients not heard of before.
    assert step == pytest.approx(2.0, rel=1e-4)
    if kind == "krum":
        assert f"c{BUFFER - 1}" not in engine.cache.entries


def test_filter_clips_first_when_both_are_asked_for():
    recipe = filtering("krum", size=4, attackers=0.25, clip_norm=1.0)
    step = merged(recipe, [[9.0], [9.0], [9.0], [-9.0]])
    assert step[0] == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 41])
def test_columns_are_sorted_as_numpy_sorts_them(count):
    rows = np.random.default_rng(count).normal(size=(count, 50)).astype(np.float32)
    before = rows.copy()
    np.testing.assert_array_equal(np.array(sorted_columns(rows)), np.sort(rows, axis=0))
    np.testing.assert_array_equal(rows, before)


def test_inner_products_of_huge_updates_do_not_overflow():
    rows = np.full((2, 4), 2.0**98, np.float32)
    assert np.isfinite(inner_products(rows, rows)).all()
    np.testing.assert_allclose(lengths(rows), 2.0**99)


@for_every_filter
def test_models_larger_than_one_block_are_filtered_alike(kind):
    size = 65536 + 5
    rows = np.random.default_rng(1).normal(size=(BUFFER, 5)).astype(np.float32)
    wide = np.concatenate([rows, np.zeros((BUFFER, size - 5), np.float32)], axis=1)
    turned = np.roll(wide, size - 5, axis=1)

    step = merged(filtering(kind), rows)

    np.testing.assert_allclose(merged(filtering(kind), wide)[:5], step, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(merged(filtering(kind), turned)[-5:], step, rtol=1e-4, atol=1e-6)


def test_median_of_few():
    assert [median_cut(count) for count in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"robust": "mean"},
        {"robust": "clip"},
        {"robust": "clip", "clip_norm": 0.0},
        {"robust": "krum", "attackers": 0.5},
        {"robust": "krum", "attackers": -0.1},
        {"robust": "trusted-direction"},
        {"robust": "median", "trusted_client": "c0"},
        {"clip_norm": 1.0},
        {"trusted_client": "c0"},
    ],
)
@for_every_recipe
def test_options_that_do_not_fit_are_refused(name, options):
    with pytest.raises(BadOption):
        recipe_from(name, **RECIPES[name], **options)


def test_sliding_windows_take_no_filter():
    with pytest.raises(BadOption, match="disjoint"):
        AsyncWA(robust="median")


def test_none_is_the_default_and_can_be_written():
    assert recipe_from("fedbuff", robust="none") == FedBuff() == engine_of(FedBuff()).recipe
