"""The gain that tunes itself, round by round."""

import json
import math

import numpy as np
import pytest

from strategies import AsyncWA
from strategies.errors import BadOption, BadState
from strategies.gain import RoundGain, SelfTuning
from strategies.gain_tuner import GainTuner
from strategies.recipe import Parts
from strategies.window import Buffer, Sliding
from tests.strategies.helpers import accept, engine_of, update

ALL = slice(None)


def vector(*values):
    return np.array(values, np.float32)


def round_of(tuner, deltas, model):
    for number, delta in enumerate(deltas, 1):
        tuner.hear(vector(*delta), ALL, None)
        tuner.merged(vector(*model) if number == len(deltas) else vector(9, 9), 1, 0.0)


def test_gain_follows_what_is_left_of_the_slope_along_the_way():
    tuner = GainTuner(SelfTuning(2.0, target=0.4, speed=1.0, first=1.0), vector(0, 0))

    # mean delta (2, 0) and way (1, 1): slope 2; nothing to compare with yet
    round_of(tuner, [(1, 0), (3, 0)], (1, 1))
    assert tuner.factor == 1.0

    # mean delta (1, 0.5) along (1, 1): 1.5 of 2 are left; the way is now (1, 0), the slope 1
    round_of(tuner, [(2, 1), (0, 0)], (2, 1))
    assert tuner.factor == pytest.approx(math.exp(0.75 - 0.4))

    # mean delta (0.4, 5) along (1, 0): 0.4 of 1, as it should be; then the model goes nowhere
    round_of(tuner, [(0.4, 10), (0.4, 0)], (2, 1))
    assert tuner.factor == pytest.approx(math.exp(0.35))

    # there is no way to compare along
    round_of(tuner, [(1, 0), (1, 0)], (3, 1))
    assert tuner.factor == pytest.approx(math.exp(0.35))


@pytest.mark.parametrize(
    ("factor", "before", "after", "expected"),
    [
        (1.0, 2.0, 20.0, math.exp(0.6)),
        (2.0, 2.0, 0.8, 2.0),
        (4.0, 2.0, 0.0, 4.0 * math.exp(-0.4)),
        (5.0, 2.0, -20.0, 5.0 * math.exp(-1.4)),
        (1.1, 1.0, -1.0, 1.0),
        (7.0, 1.0, 1.0, 8.0),
        (3.0, 0.0, 1.0, 3.0),
        (3.0, -1.0, -1.0, 3.0),
        (3.0, math.inf, 1.0, 3.0),
        (3.0, 1.0, math.nan, 3.0),
    ],
)
def test_factor_after_a_round(factor, before, after, expected):
    assert SelfTuning(10.0).next(factor, before, after) == pytest.approx(expected)


def test_a_round_lasts_until_the_median_client_has_uploaded():
    tuner = GainTuner(SelfTuning(2.0), vector(0))
    for model in range(1, 9):
        tuner.hear(vector(1), ALL, None)
        tuner.merged(vector(model), 1, 5.0)

    meta, arrays = tuner.state()

    assert meta == {"factor": 2.0, "uploads": 3, "slope": 5.0}
    assert [float(array[0]) for array in arrays.values()] == [5.0, 5.0, 3.0]


def test_what_overflows_is_gone_with_its_round():
    tuner = GainTuner(SelfTuning(2.0), vector(0, 0))
    round_of(tuner, [(3e38, 0), (3e38, 0)], (1, 1))
    round_of(tuner, [(1, 0), (1, 0)], (2, 1))
    round_of(tuner, [(1, 0), (1, 0)], (3, 1))

    assert tuner.factor == pytest.approx(2 * math.exp(0.6))


def test_engine_goes_further_per_round_while_the_deltas_stay_the_same():
    recipe = AsyncWA(buffer_size=1, volume_exponent=0.0, published_rounds=0.0)
    tuned, fixed = (engine_of(r) for r in (recipe, AsyncWA(1, self_tuning=False)))
    for turn in range(60):
        for engine in (tuned, fixed):
            accept(engine, update([1e-3], client=f"c{turn % 3}", base=engine.version))

    assert tuned.step.tuner.factor == 8.0
    assert fixed.step.tuner is None
    assert tuned.params[0] > 4 * fixed.params[0]


def test_gain_leaves_the_least_step_alone():
    tuned, fixed = (engine_of(AsyncWA(1, self_tuning=on), 0.0, 0.0) for on in (True, False))
    for turn in range(60):
        for engine in (tuned, fixed):
            accept(engine, update([1, 1e-3], client=f"c{turn % 3}", base=engine.version))

    # a direction that moves the first coordinate by twice itself, as running statistics do
    assert tuned.step.tuner.factor == 8.0
    assert tuned.params[0] == pytest.approx(fixed.params[0], rel=0.1)
    assert tuned.params[1] > 1.5 * fixed.params[1]


def test_engine_comes_back_to_the_shortest_step_when_the_deltas_turn():
    engine = engine_of(AsyncWA(buffer_size=1, volume_exponent=0.0))
    for turn in range(120):
        toward = 0.05 - float(engine.params[0])
        accept(engine, update([toward], client=f"c{turn % 3}", base=engine.version))

    assert engine.step.tuner.factor == 1.0


def test_run_continues_bit_by_bit_from_the_middle_of_a_round():
    rng = np.random.default_rng(4)
    recipe = AsyncWA(buffer_size=1)
    first, second = engine_of(recipe, *np.zeros(4)), engine_of(recipe, *np.zeros(4))
    for turn in range(45):
        delta = 1e-3 * (1 + rng.normal(size=4))
        accept(first, update(delta, client=f"c{turn % 5}", base=first.version))
        if turn == 20:
            assert first.step.tuner.factor > 1
            state = first.state()
            second.restore(state)
        elif turn > 20:
            accept(second, update(delta, client=f"c{turn % 5}", base=second.version))

    np.testing.assert_array_equal(first.params, second.params)
    assert first.step.tuner.factor == second.step.tuner.factor


@pytest.mark.parametrize(
    "damage",
    [{"factor": 9.0}, {"factor": math.nan}, {"uploads": -1}, {"slope": math.inf}, {"slope": "x"}],
)
def test_a_damaged_gain_is_refused_and_changes_nothing(damage):
    engine = engine_of(AsyncWA(1), *np.zeros(3))
    accept(engine, update([1, 2, 3]))
    state, other = engine.state(), engine_of(AsyncWA(1), *np.ones(3))
    meta = json.loads(state["meta"])
    meta["gain"] |= damage

    with pytest.raises(BadState):
        other.restore({**state, "meta": json.dumps(meta)})

    np.testing.assert_array_equal(other.params, np.ones(3))
    assert other.step.tuner.factor == 2.0
    other.restore(state)
    np.testing.assert_array_equal(other.params, engine.params)


def test_buffers_take_no_gain_that_hears_of_single_deltas():
    gain = RoundGain(10.0, SelfTuning(10.0))

    assert Parts(window=Sliding(2), gain=gain).gain == gain
    with pytest.raises(BadOption, match="sliding window"):
        Parts(window=Buffer(2), gain=gain)
    assert AsyncWA(disjoint=True).parts().gain == RoundGain(120.0, None, 60.0)


@pytest.mark.parametrize(
    "options",
    [
        {"shortest": 0.5},
        {"shortest": math.inf},
        {"target": 1.5},
        {"speed": 0.0},
        {"speed": math.nan},
        {"least": 0.0},
        {"least": 2.0},
        {"first": 0.5},
        {"first": 9.0},
        {"first": math.nan},
        {"most": 0.5},
        {"most": math.inf},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(BadOption):
        SelfTuning(**{"shortest": 10.0, **options})
