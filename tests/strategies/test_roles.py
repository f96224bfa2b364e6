"""What is known of a model's arrays by their names, and what Async-WA makes of it."""

import json
from dataclasses import asdict
from heapq import heapify, heapreplace

import numpy as np
import pytest

from strategies import CA2FL, AsyncWA, BadState, Engine, Layout, Limits, ReleaseRule
from strategies.roles import Roles
from tests.strategies.helpers import accept, engine_of, merge_of, update, vector

ROLES = Roles(variances=((1, 2),))


def roles_of(*names: str) -> Roles:
    return Layout.of({name: np.zeros(2, np.float32) for name in names}).roles


@pytest.mark.parametrize(
    "name", ["running_mean", "1.running_mean", "bn/moving_mean", "batch_stats/bn/mean"]
)
def test_running_means_are_known_by_name(name):
    assert roles_of("0.weight", name, "0.bias") == Roles(means=((2, 4),))


@pytest.mark.parametrize(
    "name", ["running_var", "block.bn.running_var", "bn/moving_variance", "batch_stats.bn.var"]
)
def test_running_variances_are_known_by_name(name):
    assert roles_of("0.weight", name, "0.bias") == Roles(variances=((2, 4),))


@pytest.mark.parametrize(
    "name",
    [
        "0",
        "0.weight",
        "running_mean.x",
        "prerunning_mean",
        "running_mean\n",
        "batch_stats/mean/x",
    ],
)
def test_other_arrays_are_no_statistics(name):
    assert roles_of("1.running_var", name, "1.running_mean") == Roles(((4, 6),), ((0, 2),))


def test_a_name_of_any_length_is_read_once():
    assert roles_of("batch_stats/" * 100_000 + "x", "batch_stats/" * 100_000 + "var") == Roles(
        variances=((2, 4),)
    )


def test_columns_count_floating_point_arrays_only():
    arrays = {
        "0.weight": np.zeros((2, 3), np.float32),
        "1.num_batches_tracked": np.zeros((), np.int64),
        "1.running_mean": np.zeros(3, np.float64),
        "1.running_var": np.zeros(3, np.float32),
    }

    roles = Layout.of(arrays).roles

    assert roles == Roles(((6, 9),), ((9, 12),))
    found = [roles.statistics_in(slice(*columns)) for columns in ((8, 10), (4, 11))]
    assert [each.places.tolist() for each in found] == [[0, 1], [2, 3, 4, 5, 6]]
    assert [each.num_variances for each in found] == [1, 2]
    assert roles.statistics_in(slice(0, 6)) is None


def test_sliding_statistics_follow_the_mean_delta_of_the_window():
    # K = 2 and a round of 12 uploads: a twelfth of the mean of the last two deltas
    engine = engine_of(AsyncWA(2), 0.0, 1.0, roles=ROLES)

    first = merge_of(engine, update([0.1, -0.6], client="a"))
    second = merge_of(engine, update([0.1, -0.2], client="a", base=1))

    assert first.params[1] == pytest.approx(1 - 0.6 / 12)
    # the older of the two was fresh, the newer is: weights 1 and 1
    assert second.params[1] == pytest.approx(1 - 0.6 / 12 - 0.4 / 12)


def test_disjoint_statistics_follow_the_mean_delta_of_the_buffer():
    engine = engine_of(AsyncWA(2, disjoint=True), 0.0, 1.0, roles=ROLES)

    first = merge_of(engine, update([1, -0.6], client="a"), update([1, -0.2], client="b"))
    second = merge_of(
        engine, update([1, -0.3], client="a", base=1), update([1, -0.3], client="b", base=1)
    )

    assert first.params[1] == pytest.approx(1 - 2 * 0.4 / 12)
    assert second.params[1] == pytest.approx(1 - 2 * 0.4 / 12 - 2 * 0.3 / 12)


def test_filter_acts_on_statistics_too():
    engine = engine_of(AsyncWA(3, disjoint=True, robust="median"), 0.0, 1.0, roles=ROLES)

    accept(
        engine,
        update([1, -0.3], client="a"),
        update([1, -0.3], client="b"),
        update([1, 1e6], client="c"),
    )

    assert engine.params[1] == pytest.approx(1 - 3 * 0.3 / 18)


def test_statistics_do_not_tune_the_gain():
    engines = [engine_of(AsyncWA(1), 0.0, 1.0, roles=ROLES) for _ in range(2)]
    rng = np.random.default_rng(0)
    for turn in range(60):
        statistic = float(rng.normal())
        for engine, other in zip(engines, (0.0, statistic), strict=True):
            accept(engine, update([1.0, other], client=f"c{turn % 3}", base=turn))

    gains = [engine.step.tuner.factor for engine in engines]
    assert gains[0] == gains[1] != 1.0


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("spread", [0.0, 0.2, 1.2])
def test_variances_never_pass_zero(spread, disjoint):
    # A variance of 1 in the initial model is 0.01 with the clients, who move it by nine tenths of
    # what is missing from whatever model they started with.
    rng = np.random.default_rng(2)
    engine = Engine(
        AsyncWA(disjoint=disjoint),
        np.ones(2, np.float32),
        limits=Limits(max_staleness=10_000),
        roles=ROLES,
    )
    seconds = np.exp(spread * rng.normal(size=60))
    due = [(seconds[c] * rng.random(), c, 0, engine.params) for c in range(60)]
    heapify(due)
    least = 1.0
    while due[0][0] < 40:
        now, client, base, model = due[0]
        delta = np.array([0.002, 0.9]) * (vector(0.5, 0.01) - model)
        engine.offer(update(delta, client=f"c{client}", base=base), now)
        if engine.ready(now):
            engine.merge(now)
        least = min(least, engine.params[1])
        heapreplace(due, (now + seconds[client], client, engine.version, engine.params))

    assert least > 0
    assert engine.published[1] == pytest.approx(0.01, abs=0.005)


def test_papers_recipes_treat_all_columns_alike():
    engines = [engine_of(CA2FL(2), 0.0, 1.0, roles=roles) for roles in (Roles(), ROLES)]
    for engine in engines:
        for turn in range(6):
            sent = update([1, -turn], client=f"c{turn % 3}", base=engine.version)
            accept(engine, sent)

    np.testing.assert_array_equal(engines[0].params, engines[1].params)


def test_bound_on_leverage_covers_statistics_which_no_cached_delta_hides():
    # One of two colludes: the statistics would give the other away.
    rule = ReleaseRule(k=2, max_leverage=0.9)
    engine = engine_of(AsyncWA(2, disjoint=True), 0.0, 1.0, release_rule=rule, roles=ROLES)
    released = []
    for number in range(40):
        sent = update([1, 1], client=f"c{number * 5 % 12}", base=engine.version)
        engine.offer(sent, 0.0)
        if engine.ready(0.0):
            released.append(engine.pending)
            engine.merge(0.0)

    assert set(released) == {3}


@pytest.mark.parametrize("disjoint", [False, True])
def test_saved_state_goes_on_with_what_was_known_when_it_was_saved(disjoint):
    recipe = AsyncWA(2, disjoint=disjoint)
    rng = np.random.default_rng(4)
    sent = [update(rng.normal(size=2), client=f"c{turn}") for turn in range(20)]
    for known, by_now in ((ROLES, Roles()), (Roles(), ROLES)):
        engine, restored = (engine_of(recipe, 0.0, 1.0, roles=r) for r in (known, by_now))
        accept(engine, *sent[:11])
        restored.restore(engine.state())
        accept(engine, *sent[11:])
        accept(restored, *sent[11:])

        np.testing.assert_array_equal(engine.params, restored.params)


def test_state_of_before_there_were_roles_goes_on_as_it_was():
    sent = [update([1, -0.1], client=f"c{turn}") for turn in range(20)]
    engine, restored = engine_of(AsyncWA(2), 0.0, 1.0), engine_of(AsyncWA(2), 0.0, 1.0, roles=ROLES)
    accept(engine, *sent[:11])
    state = engine.state()
    meta = json.loads(state["meta"])
    del meta["roles"]
    restored.restore({**state, "meta": json.dumps(meta)})
    accept(engine, *sent[11:])
    accept(restored, *sent[11:])

    np.testing.assert_array_equal(engine.params, restored.params)


@pytest.mark.parametrize("roles", [[], 3, None])
def test_roles_that_are_no_table_are_refused(roles):
    engine = engine_of(AsyncWA(2), 0.0, 1.0, roles=ROLES)
    state = engine.state()
    meta = {**json.loads(state["meta"]), "roles": roles}

    with pytest.raises(BadState):
        engine.restore({**state, "meta": json.dumps(meta)})
    assert engine.step.roles == ROLES


@pytest.mark.parametrize("spans", [[[1, 3]], [[-1, 1]], [[1, 2], [0, 1]], [[2, 1]], [[0.5, 1]], 3])
def test_damaged_roles_are_refused(spans):
    engine = engine_of(AsyncWA(2), 0.0, 1.0, roles=ROLES)
    state = engine.state()
    meta = json.loads(state["meta"])
    meta["roles"] = {**asdict(ROLES), "means": spans}

    with pytest.raises(BadState):
        engine.restore({**state, "meta": json.dumps(meta)})
    assert engine.step.roles == ROLES
