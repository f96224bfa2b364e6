"""A drift correction that is fitted: by hand, and on deltas whose coefficient is known."""

from __future__ import annotations

import numpy as np
import pytest

from strategies import AsyncWA
from strategies.drift import CachedDeltas
from strategies.errors import BadOption
from strategies.fitted_correction import FittedCoefficient
from strategies.recipe import Parts
from strategies.roles import Roles
from strategies.window import Buffer
from tests.strategies.helpers import engine_of, merge_of, update

CLIENTS, SIZE = 20, 200


def test_fitted_correction_worked_out_by_hand() -> None:
    recipe = AsyncWA(
        buffer_size=2,
        adaptive=False,
        volume_exponent=0.0,
        staleness_exponent=0.0,
        fitted_correction=True,
    )
    engine = engine_of(recipe)

    # first deltas are all news: u = 1 + 1, then u = 2 + (1 + 3) / 2; x += u / 2
    merge_of(engine, update([1], client="a", base=0))
    second = merge_of(engine, update([3], client="b", base=1))
    np.testing.assert_allclose(second.params, [3.0], rtol=1e-6)

    # r = 2 - 1, taken off whole; H / P = 2.5; u = 2.5 + (3 + 1) / 2
    third = merge_of(engine, update([2], client="a", base=2))
    np.testing.assert_allclose(third.params, [5.25], rtol=1e-6)

    # h - m was 1 - 2.5, so c = 1 - 1 * 1.5 / 1.5 ** 2 = 1 / 3: D - c h = 3 - 1,
    # and of H / P = 2.5 the mean of 1 and 1 / 3; u = 2.5 * 2 / 3 + (1 + 2) / 2
    fourth = merge_of(engine, update([3], client="b", base=3))
    np.testing.assert_allclose(fourth.params, [5.25 + (5 / 3 + 1.5) / 2], rtol=1e-6)


def fitted(own: float, chance: float, places: list[int] | None = None) -> float:
    """The coefficient after clients' deltas of two rounds: a common part, their own, and chance."""
    rng = np.random.default_rng(5)
    common = rng.normal(size=SIZE)
    apart = own * rng.normal(size=(CLIENTS, SIZE))
    before, after = (common + apart + chance * rng.normal(size=apart.shape) for _ in range(2))
    statistics = None
    if places is not None:
        before[:, places] = 1e3 * rng.normal(size=(CLIENTS, len(places)))
        statistics = Roles(means=((places[0], places[-1] + 1),)).statistics_in(slice(0, SIZE))
    fit, mean = FittedCoefficient(memory=100.0), before.mean(axis=0).astype(np.float32)
    for cached, delta in zip(before.astype(np.float32), after.astype(np.float32), strict=True):
        fit.correct(delta - cached, delta, mean, statistics)
        fit.commit()
    return fit.value


def test_what_is_a_clients_own_is_taken_off_and_chance_is_not() -> None:
    assert FittedCoefficient(10.0).value == 1.0
    assert fitted(own=1.0, chance=0.0) == pytest.approx(1.0, abs=1e-3)
    assert fitted(own=0.0, chance=1.0) == pytest.approx(0.0, abs=0.1)
    # Cov(D, h) / Var(h) = 1 / (1 + 1), less what a client's own part weighs in the mean
    assert fitted(own=1.0, chance=1.0) == pytest.approx(0.5, abs=0.06)


def test_running_statistics_tell_nothing() -> None:
    assert fitted(1.0, 1.0, places=[3, 4, 5]) == pytest.approx(fitted(1.0, 1.0), abs=0.03)


def test_corrected_deltas_are_between_raw_deltas_and_innovations() -> None:
    rng = np.random.default_rng(6)
    cached, delta, mean = (rng.normal(size=SIZE).astype(np.float32) for _ in range(3))
    fit = FittedCoefficient(10.0)
    for _ in range(30):
        news = delta - cached
        before = fit.value
        fit.correct(news, delta, mean, None)
        np.testing.assert_allclose(news, delta - before * cached, atol=1e-5)
        fit.commit()
    assert 0.0 < fit.value < 1.0


@pytest.mark.filterwarnings("error")
def test_infinite_products_are_not_learnt_from() -> None:
    fit = FittedCoefficient(10.0)
    huge = np.full(3, 1e30, np.float32)
    fit.correct(huge.copy(), 2 * huge, np.zeros(3, np.float32), None)
    fit.commit()
    assert fit.state() == (0.0, 0.0) and fit.value == 1.0


@pytest.mark.parametrize("state", [(np.nan, 1.0), (0.0, -1.0), (0.0, np.inf), (0.0,)])
def test_products_that_no_deltas_have_are_refused(state: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        FittedCoefficient(10.0).restore(state)


@pytest.mark.parametrize("taken", [[2.0], [np.nan], []])
def test_a_window_with_coefficients_out_of_bounds_is_refused(taken: list[float]) -> None:
    recipe = AsyncWA(buffer_size=2)
    engine = engine_of(recipe)
    merge_of(engine, update([1], client="a"))
    meta, _ = engine.aggregator.state()
    assert engine.aggregator.shapes(meta, 1) == {"window": (1, 1)}
    with pytest.raises(ValueError, match="coefficient"):
        engine.aggregator.shapes({**meta, "taken": taken}, 1)


def test_buffers_whose_releases_are_functions_of_their_means_take_no_fitted_correction() -> None:
    with pytest.raises(BadOption, match="sliding window"):
        Parts(window=Buffer(3), drift=CachedDeltas(fitted=True))
    drift = AsyncWA(disjoint=True, fitted_correction=True).parts().drift
    assert drift is not None and not drift.fitted
