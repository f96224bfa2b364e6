"""Norm clipping: a long update is shortened, not refused.

Sun, Kairouz, Suresh and McMahan, *Can You Really Backdoor Federated Learning?* (1911.07963),
section 3.2: d <- d / max(1, |d| / C).
"""

from __future__ import annotations

import numpy as np

from strategies.robust.gram import Floats


def clip_scales(norms: Floats, bound: float) -> Floats:
    """Return by what to multiply each update so that none is longer than the bound.

    Parameters
    ----------
    norms : ndarray, float64, shape (m,)
        L2 norms of the updates.
    bound : float
        C, the largest norm.

    Returns
    -------
    ndarray, float64, shape (m,)
        In (0, 1]; 1 for a zero update.
    """
    scales: Floats = bound / np.maximum(norms, bound)
    return scales
