"""Leverage, the search for the worst coalition, and the guard that holds releases back."""

import json
from itertools import combinations

import numpy as np
import pytest

from experiments.observer import observe
from strategies import (
    CA2FL,
    Accepted,
    AsyncWA,
    BadOption,
    Engine,
    FedAsync,
    FedAvg,
    FedBuff,
    FedStaleWeight,
    Limits,
    Reject,
    ReleaseNotReady,
    ReleaseRule,
)
from strategies.guard import HORIZON
from strategies.leverage import LeverageMeter, leverage, worst_leverage
from tests.strategies.helpers import (
    accept,
    assert_same_state,
    engine_of,
    merge_of,
    refusal,
    update,
    vector,
)


def test_leverage_by_hand():
    np.testing.assert_allclose(leverage([[1, 1, 0], [0, 0, 2]]), [0.5, 0.5, 1.0])
    np.testing.assert_allclose(leverage([[1, 1, 1], [1, 1, 0]]), [0.5, 0.5, 1.0])
    np.testing.assert_allclose(leverage([[0, 0]]), [0.0, 0.0])


def test_worst_coalition_of_one_buffer_by_hand():
    # the two heaviest others collude: 9 / (9 + 1), 4 / (4 + 1), 1 / (1 + 1)
    release = {("a", 0): 3.0, ("b", 0): 2.0, ("c", 0): 1.0, ("d", 0): 1.0}

    worst = worst_leverage([release], colluders=2)

    assert worst == pytest.approx({("a", 0): 9 / 10, ("b", 0): 4 / 5, ("c", 0): 0.5, ("d", 0): 0.5})
    assert max(worst_leverage([release], colluders=3).values()) == pytest.approx(1.0)


def test_client_that_colludes_gives_away_all_its_updates():
    first = {("a", 0): 1.0, ("b", 0): 1.0, ("c", 0): 1.0}
    second = {("a", 1): 1.0, ("b", 0): 1.0, ("c", 0): -1.0}

    # with both updates of a known the sum and the difference of b and c are
    assert worst_leverage([first, second], colluders=1)[("b", 0)] == pytest.approx(1.0)


@pytest.mark.parametrize("recipe", [FedBuff(3), CA2FL(3), AsyncWA(3, disjoint=True)], ids=repr)
@pytest.mark.parametrize("seed", range(3))
def test_search_comes_close_to_the_worst_of_all_coalitions(recipe, seed):
    clients, colluders = 8, 2
    observed = observe(recipe, clients, 12, rule=ReleaseRule(k=3), seed=seed)
    exhaustive = np.zeros(len(observed.senders))
    for coalition in combinations(range(clients), colluders):
        honest = ~np.isin(observed.senders, coalition)
        exhaustive[honest] = np.maximum(exhaustive[honest], observed.leverage(coalition))

    found = worst_leverage(observed.releases(), colluders)

    values = np.array([found[str(s), n] for n, s in enumerate(observed.senders)])
    assert (values <= exhaustive + 1e-3).all()
    assert values.max() == pytest.approx(exhaustive.max(), abs=1e-3)
    assert np.mean(exhaustive - values) < (1e-3 if recipe.name == "fedbuff" else 0.02)


def test_meter_remembers_its_horizon_and_no_more():
    meter = LeverageMeter(colluders=1, horizon=3)
    for turn in range(50):
        meter.add({("a", turn): 1.0, ("b", turn): 1.0, ("c", turn): 1.0})

    assert [release[0][1] for release in meter.state()] == [48, 49]
    twin = LeverageMeter(colluders=1, horizon=3)
    twin.restore(json.loads(json.dumps(meter.state())))
    candidate = {("d", 49): 1.0, ("b", 49): -1.0, ("c", 49): 1.0}
    assert twin.worst_after(candidate) == meter.worst_after(candidate) > 0.5


EVERY_CACHED = [
    FedBuff(4, normalise="sum", staleness_exponent=0.5),
    FedAvg(4, volume_exponent=1.0),
    FedStaleWeight(4),
    CA2FL(4),
    CA2FL(4, max_age=1.0),
    AsyncWA(4, disjoint=True, adaptive=False),
    AsyncWA(4, disjoint=True, adaptive=False, volume_exponent=1.0, max_clients=5),
]


@pytest.mark.parametrize("recipe", EVERY_CACHED, ids=repr)
@pytest.mark.parametrize("quota", [1, 2])
def test_guard_knows_the_coefficients_of_the_released_models(recipe, quota):
    rng = np.random.default_rng(1)
    rule = ReleaseRule(k=3, max_per_client=quota, max_leverage=0.999)
    size = 160
    limits = Limits(max_staleness=4)
    engine = Engine(recipe, np.zeros(size, np.float32), limits=limits, release_rule=rule)
    columns, models = {}, [engine.params]
    for index, delta in enumerate(np.eye(size, dtype=np.float32)):
        client, base = f"c{rng.integers(9)}", max(0, engine.version - int(rng.integers(3)))
        examples = int(rng.integers(1, 500))
        sent = update(delta, client=client, base=base, examples=examples)
        if isinstance(engine.offer(sent, 0.0), Accepted):
            columns[client, base] = index
        if engine.ready(0.0):
            models.append(engine.merge(0.0).params)
    released = np.diff(np.array(models, np.float64), axis=0)

    known = engine.guard.state()["releases"]

    assert len(models) > 5
    if recipe.parts().drift is None:
        assert known == []
        return
    assert len(known) == min(len(released), HORIZON - 1)
    for release, row in zip(known, released[-len(known) :], strict=True):
        expected = np.zeros(size)
        for client, base, value in release:
            expected[columns[client, base]] += value
        np.testing.assert_allclose(row, expected, atol=2e-6)


def test_buffer_of_k_is_held_until_one_more_joins():
    # one of two colludes: the other's update is known; one of three leaves two hidden
    engine = engine_of(FedBuff(2), release_rule=ReleaseRule(k=2, max_leverage=0.5))
    accept(engine, update([1], client="a"), update([2], client="b"))
    assert not engine.ready(0.0)
    with pytest.raises(ReleaseNotReady):
        engine.merge(0.0)

    merge = merge_of(engine, update([6], client="c"))

    assert len(merge.consumed) == 3
    np.testing.assert_allclose(merge.params, [3.0])


def test_longest_wait_does_not_release_a_held_buffer():
    rule = ReleaseRule(k=2, max_leverage=0.5)
    engine = engine_of(FedBuff(5, max_wait=1.0), release_rule=rule)
    accept(engine, update([1], client="a"), update([2], client="b"))

    assert not engine.ready(1e9)
    accept(engine, update([6], client="c"))
    assert engine.ready(1e9)


def dominated():
    """A buffer that no further update can save: one client has all the data."""
    big = update([1], client="a", examples=1_000_000)
    return [big, *(update([n], client=name) for n, name in enumerate("bcd"))]


def test_buffer_that_cannot_be_released_is_discarded_whole():
    rule = ReleaseRule(k=2, max_leverage=0.5)
    engine = engine_of(FedAvg(2), release_rule=rule)
    before = engine.state()
    updates = dominated()
    accept(engine, *updates[:3])
    assert not engine.ready(0.0)

    assert refusal(engine, updates[3]) is Reject.LEVERAGE_BOUND

    engine.opened_at = 0.0
    assert_same_state(before, engine.state())
    # what was discarded is in no release, so it may come again
    accept(engine, *updates[1:3])
    assert merge_of(engine, updates[3]).version == 1


@pytest.mark.parametrize(
    "recipe", [FedBuff(4), CA2FL(4), AsyncWA(4, disjoint=True, max_age=2.0)], ids=repr
)
@pytest.mark.parametrize("cut", [3, 30, 61])
def test_restored_engine_holds_back_the_same_buffers(recipe, cut):
    rng = np.random.default_rng(cut)
    rule = ReleaseRule(k=4, max_leverage=0.6)
    updates = [
        (f"c{rng.integers(12)}", int(rng.integers(3)), rng.normal(size=2), f"u{turn}")
        for turn in range(160)
    ]

    def run(engine, part):
        seen = []
        for client, lag, delta, name in part:
            base = max(0, engine.version - lag)
            answer = engine.offer(update(delta, client=client, base=base, id=name), 0.0)
            seen.append((type(answer), engine.pending, engine.ready(0.0)))
            if engine.ready(0.0):
                seen.append(engine.merge(0.0).digest)
        return seen

    first, second = (engine_of(recipe, 0.0, 0.0, release_rule=rule) for _ in range(2))
    run(first, updates[:cut])
    state = first.state()
    second.restore(state)

    assert run(second, updates[cut:]) == run(first, updates[cut:])
    assert_same_state(first.state(), second.state())
    assert first.version > 5


def test_judging_a_buffer_changes_nothing():
    recipe = AsyncWA(3, disjoint=True, max_clients=4)
    guarded = engine_of(recipe, release_rule=ReleaseRule(k=3, max_leverage=0.99))
    rng = np.random.default_rng(0)
    while guarded.version < 6:
        sent = update(rng.normal(size=1), client=f"c{rng.integers(6)}", base=guarded.version)
        guarded.offer(sent, 0.0)
        before = guarded.state()
        ready = guarded.ready(0.0)
        assert_same_state(before, guarded.state())
        if ready:
            guarded.merge(0.0)


def test_guard_that_never_holds_back_changes_no_release():
    models = []
    for bound in (None, 0.999):
        rule = ReleaseRule(k=2, max_leverage=bound)
        engine = engine_of(FedStaleWeight(4), 0.0, 0.0, release_rule=rule)
        for turn in range(40):
            sent = update(vector(turn, -turn), client=f"c{turn % 7}", base=engine.version)
            engine.offer(sent, 0.0)
            if engine.ready(0.0):
                models.append(engine.merge(0.0).digest)
    half = len(models) // 2
    assert half > 5
    assert models[:half] == models[half:]


@pytest.mark.parametrize("bound", [0.0, 0.1, 1.0, 1.5, float("nan")])
def test_refuses_bound_that_protects_nobody_or_can_never_hold(bound):
    with pytest.raises(BadOption):
        ReleaseRule(k=4, max_leverage=bound)


def test_bound_is_refused_for_windows_that_overlap():
    class Careless(FedAsync):
        disjoint = True

    with pytest.raises(BadOption, match="disjoint buffers"):
        engine_of(Careless(), release_rule=ReleaseRule(k=2, max_leverage=0.5))


@pytest.mark.parametrize("recipe", [FedBuff(4), CA2FL(4), AsyncWA(4, disjoint=True)], ids=repr)
def test_guard_takes_all_that_a_client_has_in_a_buffer_together(recipe):
    """Each update alone would have a leverage of one half, but one colluder knows their sum."""
    rule = ReleaseRule(k=2, max_per_client=2, max_leverage=0.7)
    engine = Engine(recipe, np.zeros(3, np.float32), release_rule=rule)
    accept(engine, *(update([0, 0, 0], client=name) for name in "wxyz"))
    for name in "ab":
        for base in (0, 1):
            assert isinstance(
                engine.offer(update([1, 2, 3], client=name, base=base), 0.0), Accepted
            )

    assert engine.pending == 4
    assert not engine.ready(0.0)
