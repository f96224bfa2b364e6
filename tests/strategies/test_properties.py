"""Algebra that holds for every recipe."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import (
    CA2FL,
    DCASGD,
    FADAS,
    Accepted,
    AsyncWA,
    Engine,
    FedAvg,
    FedBuff,
    FedStaleWeight,
    Limits,
)
from tests.strategies.helpers import (
    LINEAR,
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
    vector,
)

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


def test_memory_of_counted_updates_is_bounded_by_the_staleness_limit():
    engine = engine_of(FedBuff(1), limits=Limits(max_staleness=3))

    accept(engine, *(update([0], client="a", base=base) for base in range(30)))

    assert len(engine.ledger.state()) == 3


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
