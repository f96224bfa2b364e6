"""Bit-identical continuation after a restart; a state that is damaged or of another is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import (
    DCASGD,
    FADAS,
    AsyncWA,
    BadState,
    Engine,
    FedAsync,
    FedBuff,
    Limits,
    ReleaseRule,
)
from tests.strategies.helpers import (
    SIZE,
    accept,
    assert_same_state,
    engine_of,
    fast,
    for_every_recipe,
    random_updates,
    run,
    seeds,
    update,
)


@for_every_recipe
@fast
@given(seed=seeds, cut=st.integers(0, 39))
def test_restored_engine_continues_bit_by_bit(recipe, seed, cut):
    updates = random_updates(seed, 40)
    first = Engine(recipe, np.ones(SIZE, np.float32), limits=Limits(max_staleness=4))
    run(first, updates[:cut])
    state = first.state()
    second = Engine(recipe, np.zeros(SIZE, np.float32), limits=Limits(max_staleness=4))

    second.restore(state)

    assert second.version == first.version
    assert second.pending == first.pending
    assert run(second, updates[cut:]) == run(first, updates[cut:])
    assert_same_state(first.state(), second.state())


@pytest.mark.parametrize("cache", ["float32", "bfloat16", "sketch"])
def test_state_is_a_snapshot_that_survives_a_file(tmp_path, cache):
    recipe, rule = AsyncWA(buffer_size=3, disjoint=True, cache=cache), ReleaseRule(k=3)
    engine = Engine(recipe, np.ones(SIZE, np.float32), release_rule=rule)
    updates = random_updates(1, 60)
    run(engine, updates[:31])
    np.savez(tmp_path / "state.npz", **engine.state())
    expected = run(engine, updates[31:])

    restored = Engine(recipe, np.zeros(SIZE, np.float32), release_rule=rule)
    with np.load(tmp_path / "state.npz") as file:
        restored.restore({key: file[key] if key != "meta" else str(file[key]) for key in file})

    assert run(restored, updates[31:]) == expected


def test_restore_is_bit_identical_with_a_lease_held_between_two_stores():
    engine, twin = (Engine(FedBuff(3), np.zeros(SIZE, np.float32)) for _ in range(2))
    rows = np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32)
    accept(engine, update(rows[0], client="a", id="0"))
    engine.lease()[:] = np.nan
    engine.offer(update(rows[1], client="b", id="1"), 0.0)
    twin.restore(engine.state())

    merges = []
    for each in (engine, twin):
        each.offer(update(rows[2], client="c", id="2"), 0.0)
        merges.append(each.merge(0.0))

    assert merges[0].digest == merges[1].digest


@pytest.mark.parametrize("damage", ["meta", "params", "rows", "cache", "json", "count"])
def test_damaged_state_is_refused_and_changes_nothing(damage):
    recipe = AsyncWA(buffer_size=3, disjoint=True)
    engine = Engine(recipe, np.ones(SIZE, np.float32))
    run(engine, random_updates(2, 20))
    state = engine.state()
    before = engine.state()
    if damage == "json":
        state["meta"] = "{"
    elif damage == "count":
        state["meta"] = state["meta"].replace('"merges"', '"merged"')
    else:
        del state[damage]

    with pytest.raises(BadState):
        engine.restore(state)

    assert_same_state(before, engine.state())


@pytest.mark.parametrize("recipe", [AsyncWA(3, disjoint=True), AsyncWA(3)], ids=repr)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("merges", None),
        ("version", 1.5),
        ("first_version", None),
        ("opened_at", "never"),
        ("population", {"uploads": 3}),
        (
            "population",
            {"uploads": "x", "last": [], "staleness": [], "gaps": None, "round": [0, 1.0]},
        ),
        ("ledger", [[0, "a"]]),
        ("waiting", [["a", 0]]),
        ("cache", {"entries": [["a", "heavy", 1.0]], "weight": 1.0}),
        ("cache", {"entries": []}),
        ("models", None),
    ],
)
def test_damage_is_found_before_anything_is_assigned(recipe, key, value):
    engine, other = (Engine(recipe, np.ones(SIZE, np.float32)) for _ in range(2))
    run(engine, random_updates(2, 20))
    run(other, random_updates(3, 31))
    state, before = other.state(), engine.state()
    state["meta"] = json.dumps({**json.loads(state["meta"]), key: value})

    with pytest.raises(BadState):
        engine.restore(state)

    assert_same_state(before, engine.state())


def test_damaged_window_is_found_before_anything_is_assigned():
    engine = Engine(AsyncWA(3), np.ones(SIZE, np.float32))
    run(engine, random_updates(2, 20))
    state, before = engine.state(), engine.state()
    state["meta"] = json.dumps({**json.loads(state["meta"]), "aggregator": {"weights": [1.0]}})

    with pytest.raises(BadState):
        engine.restore(state)

    assert_same_state(before, engine.state())


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("recipe", "array"),
    [
        (FedBuff(3), "params"),
        (FedBuff(3), "rows"),
        (FedBuff(3, published_rounds=2.0), "mean"),
        (DCASGD(), "models"),
    ],
    ids=["params", "rows", "mean", "models"],
)
def test_state_that_is_not_finite_is_refused_and_changes_nothing(recipe, array, value):
    engine, other = (Engine(recipe, np.ones(SIZE, np.float32)) for _ in range(2))
    run(engine, random_updates(2, 19))
    run(other, random_updates(3, 31))
    state, before = other.state(), engine.state()
    state[array] = state[array].copy()
    state[array][..., -1] = value
    assert not np.isfinite(state[array]).all()

    with pytest.raises(BadState, match=f"'{array}' is not finite"):
        engine.restore(state)

    assert_same_state(before, engine.state())


def test_moments_may_be_infinite():
    engine = Engine(FADAS(3), np.ones(SIZE, np.float32))
    run(engine, random_updates(2, 20))
    state = engine.state()
    state["momentum"][-1, 0] = np.inf

    engine.restore(state)

    assert_same_state(state, engine.state())


def test_state_with_more_updates_than_the_buffer_holds_is_refused():
    engine = engine_of(FedBuff(2))
    accept(engine, update([1], client="a", id="u"))
    state = engine.state()
    meta = json.loads(state["meta"])
    state["meta"] = json.dumps({**meta, "waiting": meta["waiting"] * 3})
    state["rows"] = np.repeat(state["rows"], 3, axis=0)

    with pytest.raises(BadState):
        engine.restore(state)


def test_published_model_is_the_restored_one():
    recipe = FedBuff(1, published_rounds=3.0)
    engine = engine_of(recipe)
    state = engine.state()
    accept(engine, update([1]))
    assert engine.published[0] == 1.0

    engine.restore(state)

    assert engine.published[0] == 0.0


@pytest.mark.parametrize(
    "other",
    [
        engine_of(FedBuff(4), *range(SIZE)),
        engine_of(FedBuff(3, normalise="sum"), *range(SIZE)),
        engine_of(FedAsync(), *range(SIZE)),
        engine_of(FedBuff(3), *range(SIZE + 1)),
        engine_of(FedBuff(3), *range(SIZE), release_rule=ReleaseRule(k=3)),
        engine_of(FedBuff(3), *range(SIZE), limits=Limits(max_staleness=1)),
    ],
    ids=["size", "option", "recipe", "model", "rule", "limits"],
)
def test_state_of_another_configuration_is_refused(other):
    with pytest.raises(BadState):
        engine_of(FedBuff(3), *range(SIZE)).restore(other.state())
