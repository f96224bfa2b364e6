"""Our epsilon against Google's dp-accounting: never below it, and hardly above."""

from __future__ import annotations

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from strategies import BadOption, Privacy
from strategies.privacy.accountant import epsilon_of, most_releases

CASES = [
    (noise, releases, delta)
    for noise in (0.5, 1.0, 3.0, 20.0)
    for releases in (1, 7, 300)
    for delta in (1e-5, 1e-9)
]


def theirs(accountant, noise: float, releases: int, delta: float) -> float:
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise), releases)
    return accountant.compose(event).get_epsilon(delta)


@pytest.mark.parametrize(("noise", "releases", "delta"), CASES)
def test_epsilon_is_never_below_that_of_dp_accounting(noise, releases, delta) -> None:
    ours = Privacy(1.0, noise, delta, 1e6).epsilon_after(releases)
    # Gaussian privacy loss to within its grid, which errs upwards.
    assert ours >= theirs(PLDAccountant(), noise, releases, delta)


@pytest.mark.parametrize(("noise", "releases", "delta"), CASES)
def test_epsilon_is_that_of_renyi_accounting(noise, releases, delta) -> None:
    ours = Privacy(1.0, noise, delta, 1e6).epsilon_after(releases)
    orders = [1 + 10 ** (step / 100) for step in range(-300, 400)]
    assert ours == pytest.approx(theirs(RdpAccountant(orders), noise, releases, delta), rel=2e-3)


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("bound", [5.0, 20.0, 100.0])
def test_most_releases_keep_the_bound_and_one_more_does_not(noise, bound) -> None:
    rho = 1 / (2 * noise**2)
    most = most_releases(rho, 1e-6, bound)
    assert epsilon_of(most * rho, 1e-6) <= bound < epsilon_of((most + 1) * rho, 1e-6)


def test_nothing_released_costs_nothing() -> None:
    assert epsilon_of(0.0, 1e-5) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"clip": 0.0},
        {"clip": float("inf")},
        {"noise_multiplier": 0.001},
        {"noise_multiplier": 1e4},
        {"delta": 1.0},
        {"delta": 0.0},
        {"max_epsilon": -1.0},
        {"max_epsilon": float("nan")},
        {"max_epsilon": 0.5},
        {"clip": True},
    ],
)
def test_settings_that_promise_nothing_or_too_much_are_refused(change) -> None:
    good = {"clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "max_epsilon": 8.0}
    Privacy(**good)
    with pytest.raises(BadOption):
        Privacy(**good | change)
