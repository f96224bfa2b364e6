"""Recipes that merge every upload against their papers, worked out by hand."""

from collections import defaultdict

import numpy as np
import pytest

from strategies import (
    ACE,
    ACED,
    AREA,
    DCASGD,
    AsyncFedED,
    BadOption,
    FedAvg,
    LeakyRecipe,
    Limits,
    Reject,
    ReleaseRule,
    Ringleader,
    Ringmaster,
    recipe_from,
)
from strategies.catalog import RECIPES
from strategies.distance import DistanceWeight
from strategies.engagement import LatestDeltas
from strategies.recipe import Parts
from strategies.window import Buffer
from tests.strategies.helpers import accept, advance, engine_of, merge_of, refusal, update


def course(engine, *sent):
    """Merge updates (client, delta, base) one by one; return the model after each."""
    return [
        float(merge_of(engine, update([delta], client=client, base=base)).params[0])
        for client, delta, base in sent
    ]


def test_ace_moves_by_the_mean_of_everyones_latest_delta():
    # means 2, (2 + 4) / 2, (6 + 4) / 2
    engine = engine_of(ACE(server_lr=1.0))

    assert course(engine, ("a", 2, 0), ("b", 4, 0), ("a", 6, 2)) == [2.0, 5.0, 10.0]


def test_ace_forgets_a_client_that_stays_silent():
    # b alone after two uploads per client: a left at upload 6
    engine = engine_of(ACE(server_lr=1.0, max_age=2.0))
    models = course(engine, ("a", 2, 0), *(("b", 4, base) for base in range(6)))

    assert np.diff(models).tolist() == [3.0, 3.0, 3.0, 3.0, 4.0, 4.0]


def test_aced_leaves_out_clients_silent_for_more_than_max_delay_versions():
    # means 2, (2 + 4) / 2, then a is two versions old: 4
    engine = engine_of(ACED(server_lr=1.0, max_delay=1))

    assert course(engine, ("a", 2, 0), ("b", 4, 0), ("b", 4, 2)) == [2.0, 5.0, 9.0]
    assert list(engine.cache.entries) == ["b"]


def test_area_is_the_exact_mean_of_the_latest_models():
    # y = {a: 12}; {a: 12, b: 16}; {a: 14 + 2, b: 16}; {a: 16, b: 12 - 4}
    engine = engine_of(AREA(), 10.0)

    models = course(engine, ("a", 2, 0), ("b", 6, 0), ("a", 2, 2), ("b", -4, 1))

    assert models == [12.0, 14.0, 16.0, 12.0]


def test_area_weighs_models_by_volume_when_asked_to():
    # (1 * 1 + 4 * 6) / 5
    engine = engine_of(AREA(volume_exponent=1.0))
    accept(engine, update([1], client="a", examples=1))

    merge = merge_of(engine, update([6], client="b", examples=4))

    np.testing.assert_allclose(merge.params, [5.0])
    assert merge.weights == pytest.approx((0.8,))


def test_dc_asgd_corrects_a_stale_delta_by_its_square_times_the_way_of_the_model():
    # fresh: 2; stale: 2 - 0.5 * 2 * 2 * (2 - 0) = -2
    engine = engine_of(DCASGD(server_lr=1.0, adaptive=False, strength=0.5))

    assert course(engine, ("a", 2, 0), ("b", 2, 0)) == [2.0, 0.0]


def test_dc_asgd_divides_its_strength_by_the_root_of_the_mean_square():
    # s1 = 0.25 * 4 = 1, fresh: 2; s2 = 0.75 * 1 + 1 = 1.75
    # stale: 2 - 2 / sqrt(1.75) * 2 * 2 * 2 = -10.0948638
    engine = engine_of(DCASGD(server_lr=1.0, decay=0.75))

    models = course(engine, ("a", 2, 0), ("b", 2, 0))

    assert models == pytest.approx([2.0, -8.0948638])


def test_dc_asgd_follows_a_gradient_that_shrinks_as_the_model_nears_its_goal():
    # The gradient of -log likelihood of one logistic unit; its square is near the curvature.
    def gradient(w):
        return -1 / (1 + np.exp(w))

    engine = engine_of(DCASGD(server_lr=1.0, adaptive=False, strength=1.0))
    stale, true = -gradient(0.0), -gradient(0.5)
    accept(engine, update([0.5], client="a"))

    merge = merge_of(engine, update([stale], client="late", base=0))

    assert abs(merge.params[0] - 0.5 - true) < abs(stale - true)


@pytest.mark.parametrize("adaptive", [True, False])
def test_dc_asgd_survives_an_update_whose_square_overflows(adaptive):
    engine = engine_of(DCASGD(adaptive=adaptive))

    accept(engine, update([1e30], client="a"), update([1e30], client="b", base=0))

    assert np.isfinite(engine.params).all()


def test_ringmaster_takes_updates_below_the_delay_threshold_and_drops_the_others():
    engine = engine_of(Ringmaster(max_delay=2, server_lr=0.5))

    assert course(engine, ("a", 2, 0), ("b", 2, 0)) == [1.0, 2.0]
    assert refusal(engine, update([2], client="c", base=0)) is Reject.TOO_STALE
    assert engine.params[0] == 2.0


def test_recipe_cannot_loosen_the_bound_on_staleness():
    engine = engine_of(Ringmaster(max_delay=300), limits=Limits(max_staleness=1))
    advance(engine, 2)

    assert refusal(engine, update([1], base=0)) is Reject.TOO_STALE


def test_ringleader_steps_once_per_client_after_everyone_is_in_the_table():
    engine = engine_of(Ringleader(server_lr=1.0))

    models = course(
        engine,
        ("a", 2, 0),  # alone: the table is complete, step 2
        ("b", 4, 0),  # phase 1: a is missing
        ("b", 8, 2),  # b's mean is 6
        ("a", 2, 1),  # complete: step (2 + 6) / 2
        ("a", 10, 4),  # had its step: next table
        ("b", 3, 3),  # b's mean is (4 + 8 + 3) / 3: step (2 + 5) / 2; next phase
        ("b", 20, 6),  # a's 10 is waiting there: step (10 + 20) / 2
    )

    assert models == pytest.approx([2.0, 2.0, 2.0, 6.0, 6.0, 9.5, 24.5])


def ringleader_by_the_book(uploads):
    """Algorithm 1 with every delta kept in lists, over the clients heard of so far."""
    x, heard, due, table, later = 0.0, set(), set(), defaultdict(list), defaultdict(list)
    for client, delta in uploads:
        heard.add(client)
        if due and client not in due:
            later[client].append(delta)
        else:
            table[client].append(delta)
            if not due and set(table) == heard:
                due = set(heard)
            if client in due:
                due.remove(client)
                x += np.mean([np.mean(deltas) for deltas in table.values()])
                if not due:
                    table, later = later, defaultdict(list)
        yield x


@pytest.mark.parametrize("seed", range(3))
def test_ringleader_keeps_the_books_of_its_algorithm(seed):
    rng = np.random.default_rng(seed)
    # The first is far more often there than the last.
    clients = rng.choice(list("abcde"), size=150, p=[0.5, 0.25, 0.15, 0.07, 0.03])
    uploads = [(str(client), float(rng.normal())) for client in clients]
    engine = engine_of(Ringleader(server_lr=1.0))

    models = course(engine, *((*upload, base) for base, upload in enumerate(uploads)))

    np.testing.assert_allclose(models, list(ringleader_by_the_book(uploads)), rtol=1e-4, atol=1e-4)


def test_ringleader_waits_for_a_dead_client_for_max_age_only():
    engine = engine_of(Ringleader(server_lr=1.0, max_age=2.0))
    course(engine, ("dead", 2, 0), ("a", 2, 0), ("dead", 2, 1))
    assert engine.params[0] == 4.0

    models = course(engine, *(("a", 1, base) for base in range(3, 12)))

    assert models[0] > 4.0
    assert models[-1] - models[-2] == 1.0
    assert np.diff(models).min() == 0.0


def test_asyncfeded_divides_by_the_distance_the_model_has_moved():
    # fresh: gamma 0; then |w - w_base| = 5, |d| = 2.5, gamma 2, weight 1 / 3
    engine = engine_of(AsyncFedED(server_lr=1.0), 0.0, 0.0)

    first = merge_of(engine, update([3, 4], client="a"))
    second = merge_of(engine, update([0, 2.5], client="b", base=0))

    np.testing.assert_allclose(first.params, [3.0, 4.0])
    np.testing.assert_allclose(second.params, [3.0, 4.0 + 2.5 / 3], rtol=1e-6)
    assert second.weights == pytest.approx((1 / 3,))


@pytest.mark.parametrize("name", RECIPES)
def test_only_recipes_that_say_they_are_disjoint_work_under_a_release_rule(name):
    recipe = recipe_from(name)

    if recipe.disjoint:
        assert isinstance(recipe.parts().window, Buffer)
        engine_of(recipe, release_rule=ReleaseRule(k=3))
    else:
        with pytest.raises(LeakyRecipe):
            engine_of(recipe, release_rule=ReleaseRule(k=3))


def test_rules_for_single_uploads_refuse_a_buffer():
    with pytest.raises(BadOption):
        Parts(window=Buffer(3), upload=DistanceWeight(1.0))


def test_mean_of_latest_deltas_needs_the_cache():
    class NoCache(FedAvg):
        def parts(self):
            return Parts(window=ACE().parts().window, upload=LatestDeltas())

    with pytest.raises(BadOption):
        engine_of(NoCache())
