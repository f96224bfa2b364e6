"""Mistakes seen in other implementations of asynchronous aggregation, each refused here."""

import numpy as np
import pytest

from strategies import AsyncWA, Engine, FedAsync, FedBuff, Layout, Limits, Reject
from strategies.freshness import Constant, Hinge, Polynomial
from tests.strategies.helpers import (
    EVERY_RECIPE,
    accept,
    advance,
    engine_of,
    merge_of,
    refusal,
    update,
    vector,
)


def test_mixing_rate_does_not_compound_over_the_run():
    engine = engine_of(FedAsync(mixing=0.6))
    advance(engine, 50)

    merge = merge_of(engine, update([1], base=50))

    np.testing.assert_allclose(merge.params, [0.6], rtol=1e-6)


def test_staleness_counts_from_the_version_sent_not_from_the_last_upload():
    engine = engine_of(FedBuff(buffer_size=1))
    advance(engine, 4)
    accept(engine, update([0], client="a", base=1))

    answer = engine.offer(update([0], client="a", base=2), 0.0)

    assert answer.staleness == 3


@pytest.mark.parametrize("function", [Constant(), Polynomial(0.5), Polynomial(3.0), Hinge()])
def test_fresh_update_has_weight_one(function):
    assert function.weight(0) == 1.0


def test_polynomial_is_the_root_of_the_sum_not_the_sum_with_the_root():
    assert Polynomial(0.5).weight(4) == pytest.approx(1 / np.sqrt(5))
    assert Polynomial(0.5).weight(4) != pytest.approx(1 / (1 + np.sqrt(4)))


@pytest.mark.parametrize(
    "recipe",
    [
        FedBuff(buffer_size=2, normalise="sum"),
        AsyncWA(buffer_size=2, disjoint=True),
    ],
)
def test_weights_are_renormalised_after_the_discount(recipe):
    engine = engine_of(recipe)
    advance(engine, 5)

    merge = merge_of(engine, update([1], client="a"), update([1], client="b", base=2))

    assert sum(merge.weights) == pytest.approx(1.0)


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=repr)
def test_client_arrays_and_initial_model_are_never_changed(recipe):
    initial = vector(1, 2)
    engine = Engine(recipe, initial)
    deltas = [vector(index, 1) for index in range(6)]

    for index, delta in enumerate(deltas):
        accept(engine, update(delta, client=f"c{index}", base=engine.version))

    np.testing.assert_array_equal(initial, vector(1, 2))
    for index, delta in enumerate(deltas):
        np.testing.assert_array_equal(delta, vector(index, 1))


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=repr)
def test_released_models_never_change_afterwards(recipe):
    engine = Engine(recipe, vector(1, 2))
    released = []
    for index in range(9):
        merge = accept(engine, update([index, 1], client=f"c{index}", base=engine.version))
        for model in (merge.params, engine.published) if merge else ():
            released.append((model, model.copy()))
            with pytest.raises(ValueError):
                model[0] = 0.0

    for model, snapshot in released:
        np.testing.assert_array_equal(model, snapshot)


def test_delta_is_added_whatever_the_model_has_become_meanwhile():
    # against the model of now the late client's model 0 + 1 would pull 10 back to 1
    engine = engine_of(FedBuff(buffer_size=1, staleness_exponent=0.0))
    accept(engine, update([10], client="a"))

    accept(engine, update([1], client="late", base=0))

    np.testing.assert_array_equal(engine.params, vector(11))


def test_divides_by_the_buffer_not_by_the_number_of_clients():
    engine = engine_of(FedBuff(buffer_size=2, staleness_exponent=0.0))
    accept(engine, update([0], client="x"), update([0], client="y"))

    merge = merge_of(engine, update([2], client="a", base=0), update([4], client="a", base=1))

    np.testing.assert_array_equal(merge.params, vector(3))


def test_integer_buffers_are_carried_and_not_averaged():
    model = {"w": np.ones(2, np.float32), "num_batches_tracked": np.array(7)}
    layout = Layout.of(model)

    restored = layout.unflatten(layout.flatten(model) * np.float32(0.5), model)

    assert layout.num_params == 2
    assert restored["num_batches_tracked"] == 7
    assert restored["num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("disjoint", [False, True])
def test_entry_of_a_dead_client_leaves_the_mean(disjoint):
    recipe = AsyncWA(2, disjoint, adaptive=False, max_age=3.0, volume_exponent=0.0)
    engine = engine_of(recipe)
    accept(engine, update([90], client="dead"), update([0], client="a"))

    steps = []
    for _ in range(12):
        for client in "ab":
            before = engine.params.copy()
            accept(engine, update([0], client=client, base=engine.version))
            steps.append(float(engine.params[0] - before[0]))

    assert any(step > 1 for step in steps[:6])
    assert steps[-4:] == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=repr)
def test_first_round_makes_progress(recipe):
    engine = engine_of(recipe)

    accept(engine, *(update([1], client=name) for name in "abc"))

    assert engine.version >= 1


def test_update_from_a_future_version_has_no_negative_staleness():
    engine = engine_of(FedBuff(buffer_size=2))

    assert refusal(engine, update([1], base=1)) is Reject.UNKNOWN_BASE_VERSION
    assert refusal(engine, update([1], base=-1)) is Reject.UNKNOWN_BASE_VERSION


def test_same_client_and_base_version_count_once_even_after_the_merge():
    engine = engine_of(FedBuff(buffer_size=2))
    accept(engine, update([1], client="a"))

    assert refusal(engine, update([1], client="a")) is Reject.DUPLICATE_UPDATE
    accept(engine, update([1], client="b"))
    assert engine.version == 1
    assert refusal(engine, update([1], client="a")) is Reject.DUPLICATE_UPDATE


def test_stale_update_is_refused_once_it_could_no_longer_be_recognised():
    engine = engine_of(FedBuff(buffer_size=1), limits=Limits(max_staleness=2))
    accept(engine, update([1], client="a", id="first"))
    advance(engine, 1)
    assert refusal(engine, update([1], client="a")) is Reject.DUPLICATE_UPDATE

    advance(engine, 1)

    assert refusal(engine, update([1], client="a")) is Reject.TOO_STALE
