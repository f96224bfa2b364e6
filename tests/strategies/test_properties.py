"""Algebra that holds for every recipe, and bit-identical continuation after a restart."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import (
    CA2FL,
    DCASGD,
    FADAS,
    Accepted,
    AsyncWA,
    BadState,
    Engine,
    FedAsync,
    FedAvg,
    FedBuff,
    FedStaleWeight,
    Limits,
    ReleaseRule,
)
from tests.strategies.helpers import (
    EVERY_RECIPE,
    LINEAR,
    accept,
    assert_same_state,
    engine_of,
    update,
    vector,
)

SIZE = 5
BUFFERED = [
    FedBuff(4),
    FedBuff(4, normalise="sum"),
    AsyncWA(4, disjoint=True, adaptive=False),
]
EVERY_ASYNCHRONOUS = [
    *BUFFERED,
    AsyncWA(4, disjoint=True),
    FADAS(4, server_lr=0.1),
    CA2FL(4),
    FedStaleWeight(4),
]
EVERY_BUFFERED = [*EVERY_ASYNCHRONOUS, FedAvg(4)]

seeds = st.integers(0, 2**32 - 1)
fast = settings(max_examples=25, deadline=None)
for_every_recipe = pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=repr)


def random_updates(seed, number, clients=6, scale=1.0):
    """Updates of clients that each fetch the newest version they may know of."""
    rng = np.random.default_rng(seed)
    updates = []
    for turn in range(number):
        client, examples = f"c{rng.integers(clients)}", int(rng.integers(1, 1000))
        delta = scale * rng.normal(size=SIZE)
        lag = int(rng.integers(3))
        updates.append((client, lag, delta.astype(np.float32), examples, f"{seed}-{turn}"))
    return updates


def run(engine, updates):
    """Feed updates; refusals (duplicates) are part of the run. Return all released bytes."""
    released = []
    for turn, (client, lag, delta, examples, name) in enumerate(updates):
        base = max(0, engine.version - lag)
        engine.offer(update(delta, client=client, base=base, examples=examples, id=name), turn)
        if engine.ready(turn):
            merge = engine.merge(turn)
            released.append((merge.digest, merge.weights, engine.published.tobytes()))
    return released


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


def test_memory_of_counted_updates_is_bounded_by_the_staleness_limit():
    engine = engine_of(FedBuff(1), limits=Limits(max_staleness=3))

    accept(engine, *(update([0], client="a", base=base) for base in range(30)))

    assert len(engine.ledger.state()) == 3


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


@pytest.mark.parametrize("recipe", EVERY_BUFFERED, ids=repr)
@fast
@given(seed=seeds, order=st.permutations(range(4)))
def test_order_inside_a_buffer_does_not_matter(recipe, seed, order):
    rng = np.random.default_rng(seed)
    models = []
    buffers = [rng.normal(size=(4, SIZE)) for _ in range(3)]
    for shuffle in (range(4), order):
        engine = Engine(recipe, np.zeros(SIZE, np.float32))
        for base, buffer in enumerate(buffers):
            accept(
                engine,
                *(
                    update(buffer[i], client=f"c{i + base}", base=base, examples=i + 1)
                    for i in shuffle
                ),
            )
        models.append(engine.params)

    np.testing.assert_allclose(models[0], models[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", EVERY_ASYNCHRONOUS, ids=repr)
@fast
@given(seed=seeds, order=st.permutations(range(4)))
def test_order_does_not_matter_to_late_updates_and_two_of_one_client(recipe, seed, order):
    rng = np.random.default_rng(seed)
    early, mixed = rng.normal(size=(2, 4, SIZE)), rng.normal(size=(4, SIZE))
    sent = [("twice", 2), ("twice", 1), ("late", 0), ("prompt", 2)]
    models = []
    for shuffle in (range(4), order):
        engine = Engine(recipe, np.zeros(SIZE, np.float32))
        for base, buffer in enumerate(early):
            accept(engine, *(update(buffer[i], client=f"c{i}", base=base) for i in range(4)))
        accept(
            engine,
            *(
                update(mixed[i], client=sent[i][0], base=sent[i][1], examples=i + 1)
                for i in shuffle
            ),
        )
        assert engine.version == 3
        models.append(engine.params)

    np.testing.assert_allclose(models[0], models[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", LINEAR, ids=repr)
@fast
@given(seed=seeds, scale=st.sampled_from([0.25, 2.0, 1024.0]))
def test_scaling_all_updates_scales_the_model(recipe, seed, scale):
    one = Engine(recipe, np.zeros(SIZE, np.float32))
    other = Engine(recipe, np.zeros(SIZE, np.float32))

    run(one, random_updates(seed, 20))
    run(other, random_updates(seed, 20, scale=scale))

    np.testing.assert_array_equal(one.params * np.float32(scale), other.params)


@fast
@given(seed=seeds)
def test_adaptive_server_steps_do_not_depend_on_the_scale_of_the_updates(seed):
    recipe = FADAS(3, server_lr=0.1, epsilon=1e-20)
    one, other = (Engine(recipe, np.zeros(SIZE, np.float32)) for _ in range(2))

    run(one, random_updates(seed, 20))
    run(other, random_updates(seed, 20, scale=1024.0))

    np.testing.assert_allclose(one.params, other.params, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("adaptive", "power"), [(False, 2), (True, 1)])
@fast
@given(seed=seeds)
def test_delay_compensation_scales_with_its_strength(adaptive, power, seed):
    scale = 4.0
    one = Engine(DCASGD(adaptive=adaptive, strength=0.5), np.zeros(SIZE, np.float32))
    weaker = DCASGD(adaptive=adaptive, strength=0.5 / scale**power)
    other = Engine(weaker, np.zeros(SIZE, np.float32))

    run(one, random_updates(seed, 12))
    run(other, random_updates(seed, 12, scale=scale))

    np.testing.assert_allclose(one.params * np.float32(scale), other.params, rtol=1e-3, atol=1e-3)


@for_every_recipe
def test_zero_updates_leave_the_model_where_it_is(recipe):
    engine = Engine(recipe, vector(1, 2, 3))

    for turn in range(12):
        accept(engine, update([0, 0, 0], client=f"c{turn}", base=engine.version))

    assert engine.version > 0
    np.testing.assert_array_equal(engine.params, vector(1, 2, 3))
    np.testing.assert_allclose(engine.published, vector(1, 2, 3), rtol=1e-6)


@for_every_recipe
@fast
@given(seed=seeds)
def test_every_accepted_update_is_consumed_exactly_once(recipe, seed):
    engine = Engine(recipe, np.zeros(SIZE, np.float32))
    accepted, consumed = [], []
    for turn, (client, lag, delta, examples, name) in enumerate(random_updates(seed, 30)):
        base = max(0, engine.version - lag)
        offered = update(delta, client=client, base=base, examples=examples, id=name)
        if type(engine.offer(offered, turn)).__name__ == "Accepted":
            accepted.append(name)
        if engine.ready(turn):
            consumed.extend(engine.merge(turn).consumed)

    assert consumed == accepted[: len(consumed)]
    assert len(accepted) - len(consumed) == engine.pending


@for_every_recipe
@fast
@given(seed=seeds)
def test_refused_updates_never_change_the_state(recipe, seed):
    engine = Engine(recipe, np.ones(SIZE, np.float32), limits=Limits(max_staleness=4))
    run(engine, random_updates(seed, 15))
    before = engine.state()
    newest, good = engine.version, np.ones(SIZE, np.float32)

    refused = [
        update(good * np.float32(np.nan), client="new", base=newest),
        update(good[1:], client="new", base=newest),
        update(good, client="new", base=newest, examples=0),
        update(good, client="new", base=newest + 1),
        update(good, client="new", base=max(0, newest - 5) if newest >= 5 else -1),
    ]
    answers = [engine.offer(each, 99.0) for each in refused]

    assert not any(isinstance(answer, Accepted) for answer in answers)
    assert_same_state(before, engine.state())


def test_merge_digest_is_the_sha256_of_the_little_endian_model():
    engine = Engine(FedBuff(1), np.zeros(SIZE, np.float32))

    merge = accept(engine, update([1, 2, 3, 4, 5]))

    assert merge.digest == hashlib.sha256(merge.params.astype("<f4").tobytes()).hexdigest()


def test_models_larger_than_one_column_block_merge_alike():
    size = 3 * 65536 + 17
    rng = np.random.default_rng(4)
    deltas = rng.normal(size=(4, size)).astype(np.float32)
    for recipe in BUFFERED:
        engine = Engine(recipe, np.zeros(size, np.float32))
        merge = accept(engine, *(update(d, client=f"c{i}") for i, d in enumerate(deltas)))
        np.testing.assert_allclose(merge.params, deltas.mean(axis=0), atol=1e-6)
