"""Every reason to refuse an update, and that a refusal changes nothing."""

import numpy as np
import pytest

from strategies import (
    ClientUpdate,
    Engine,
    FedBuff,
    Limits,
    ManifestMismatch,
    MergeDue,
    Reject,
    ReleaseNotReady,
    ReleaseRule,
)
from strategies.reject import sentence
from tests.strategies.helpers import accept, assert_same_state, engine_of, refusal, update, vector

LIMITS = Limits(max_staleness=5, max_norm=10.0, max_examples=100)


@pytest.fixture
def engine():
    return engine_of(FedBuff(buffer_size=5), 0.0, 0.0, limits=LIMITS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_update_with_nonfinite_value(engine, value):
    assert refusal(engine, update([1, value])) is Reject.NONFINITE


def test_refuses_nonfinite_value_beside_values_that_overflow(engine):
    assert refusal(engine, update([3e38, np.nan])) is Reject.NONFINITE


def test_refuses_finite_values_whose_square_overflows_as_too_large():
    engine = engine_of(FedBuff(), 0.0, 0.0)

    assert refusal(engine, update([3e38, 3e38])) is Reject.NORM_TOO_LARGE


def test_accepts_finite_values_whose_float32_square_overflows():
    engine = engine_of(FedBuff(), 0.0, 0.0)

    accept(engine, update([1e25, 1e25]))

    assert engine.pending == 1


def test_refuses_norm_above_the_bound_and_accepts_the_bound(engine):
    assert refusal(engine, update([6.0001, 8])) is Reject.NORM_TOO_LARGE
    accept(engine, update([6, 8]))


def test_norm_bound_is_exact_where_float32_sums_are_not():
    size = 200_000
    one = np.full(size, 0.1, np.float32)
    norm = float(np.linalg.norm(one.astype(np.float64)))
    lenient, strict = (
        Engine(FedBuff(), np.zeros(size, np.float32), limits=Limits(max_norm=norm * factor))
        for factor in (1 + 1e-9, 1 - 1e-9)
    )

    accept(lenient, update(one))
    assert refusal(strict, update(one)) is Reject.NORM_TOO_LARGE


@pytest.mark.parametrize(
    "delta",
    [
        np.zeros(3, np.float32),
        np.zeros((1, 2), np.float32),
        np.zeros(2, np.float64),
        np.zeros(2, ">f4"),
        np.zeros(2, np.int32),
        [0.0, 0.0],
    ],
    ids=["length", "rank", "float64", "byte order", "integer", "list"],
)
def test_refuses_delta_of_wrong_form(engine, delta):
    assert refusal(engine, ClientUpdate("a", 0, delta, 1, "u")) is Reject.WRONG_SHAPE


@pytest.mark.parametrize("examples", [0, -1, 101, 2**63, 1.0, True, "1", None])
def test_refuses_bad_number_of_examples(engine, examples):
    assert refusal(engine, update([1, 1], examples=examples)) is Reject.BAD_NUM_EXAMPLES


@pytest.mark.parametrize("base", [1, -1, 0.0, False, None, "0"])
def test_refuses_version_that_was_never_released(engine, base):
    assert refusal(engine, update([1, 1], base=base)) is Reject.UNKNOWN_BASE_VERSION


def test_refuses_version_from_before_the_run():
    engine = engine_of(FedBuff(), version=7)

    assert refusal(engine, update([1], base=6)) is Reject.UNKNOWN_BASE_VERSION
    accept(engine, update([1], base=7))


def test_refuses_update_older_than_max_staleness():
    engine = engine_of(FedBuff(buffer_size=1), limits=LIMITS)
    accept(engine, *(update([0], client="b", base=base) for base in range(6)))

    assert refusal(engine, update([1], base=0)) is Reject.TOO_STALE
    accept(engine, update([1], base=1))


def test_refuses_update_id_seen_before(engine):
    accept(engine, update([1, 1], client="a", id="same"))

    assert refusal(engine, update([1, 1], client="b", id="same")) is Reject.DUPLICATE_UPDATE


def test_refuses_client_beyond_its_quota_until_the_next_buffer():
    engine = engine_of(FedBuff(buffer_size=2), release_rule=ReleaseRule(k=2))
    accept(engine, update([0], client="a"), update([0], client="b"))
    accept(engine, update([0], client="c", base=0))

    assert refusal(engine, update([0], client="c", base=1)) is Reject.CLIENT_QUOTA
    accept(engine, update([0], client="a", base=1))
    accept(engine, update([0], client="c", base=1))


@pytest.mark.parametrize("code", list(Reject))
def test_every_code_has_a_sentence(code):
    assert code.value == code.name
    assert sentence(code).endswith(".")


def test_refusal_changes_nothing(engine):
    accept(engine, update([1, 2], client="a", id="known"))
    before = engine.state()

    for bad in (
        update([1, np.nan], client="b"),
        update([100, 0], client="b"),
        update([1], client="b"),
        update([1, 1], client="b", examples=0),
        update([1, 1], client="b", base=3),
        update([1, 1], client="a"),
        update([1, 1], client="b", id="known"),
    ):
        refusal(engine, bad)

    assert_same_state(before, engine.state())


def test_full_buffer_takes_no_more_and_an_unready_one_does_not_merge():
    engine = engine_of(FedBuff(buffer_size=2))
    engine.offer(update([1], client="a"), 0.0)
    with pytest.raises(ReleaseNotReady):
        engine.merge(0.0)
    engine.offer(update([1], client="b"), 0.0)
    before = engine.state()

    with pytest.raises(MergeDue):
        engine.offer(update([1], client="c"), 0.0)

    assert_same_state(before, engine.state())


@pytest.mark.parametrize(
    "params", [np.zeros((2, 2), np.float32), np.zeros(2), vector(np.nan), np.zeros(0, np.float32)]
)
def test_refuses_initial_model_that_is_not_a_finite_vector(params):
    with pytest.raises(ManifestMismatch):
        Engine(FedBuff(), params)
