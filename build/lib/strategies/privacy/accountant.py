"""Zero-concentrated differential privacy, and what it means in epsilon and delta.

Discrete Gaussian noise of scale sigma on an integer vector of L2 sensitivity D is zCDP with
rho = D^2 / (2 sigma^2) (Canonne, Kamath and Steinke 2020, theorem 14), and rho adds up under
adaptive composition (Bun and Steinke 2016, lemma 2.3).
"""

from __future__ import annotations

import math

import numpy as np

# Optimal orders lie far inside, for any rho and delta that doubles can hold sensibly.
_ORDERS_LESS_ONE = np.logspace(-6, 9, 3001)
# What doubles lose in the sum below, rounded generously.
_ROUNDING = 1 + 1e-9


def epsilon_of(rho: float, delta: float) -> float:
    """Return an epsilon for which rho-zCDP implies (epsilon, delta)-differential privacy.

    Canonne, Kamath and Steinke 2020, corollary 13: the least over orders a > 1 of

        a rho + log(1 - 1 / a) - (log delta + log a) / (a - 1).

    Any order is sound, so the grid searched costs tightness only, less than one in a thousand.

    Parameters
    ----------
    rho : float
        At least 0.
    delta : float
        Between 0 and 1.

    Returns
    -------
    float
        At least 0.
    """
    if rho <= 0:
        return 0.0
    less_one = _ORDERS_LESS_ONE
    orders = 1 + less_one
    candidates = (
        rho * orders + np.log(less_one / orders) - (math.log(delta) + np.log(orders)) / less_one
    )
    return max(0.0, float(candidates.min())) * _ROUNDING


def most_releases(rho: float, delta: float, max_epsilon: float) -> int:
    """Return into how many releases of `rho` each a client's content may go.

    Parameters
    ----------
    rho : float
        Of one release, positive.
    delta, max_epsilon : float
        The bound on all of them together.

    Returns
    -------
    int
        0 when not even one release keeps the bound.
    """
    low, high = 0, 1
    while epsilon_of(high * rho, delta) <= max_epsilon:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if epsilon_of(middle * rho, delta) <= max_epsilon else (low, middle)
        )
    return low
