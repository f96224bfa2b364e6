"""Multi-Krum: the updates that have most close neighbours.

Blanchard, El Mhamdi, Guerraoui and Stainer, *Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent* (NeurIPS 2017), section 4: with f of m updates hostile, the score of an update is
the sum of the squared distances to its m - f - 2 nearest neighbours, and those with the lowest
scores are averaged. The paper's guarantee needs 2 f + 2 < m.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strategies.robust.gram import Floats


def krum_scores(products: Floats, suspects: int) -> Floats:
    """Return the Krum score of each update.

    Parameters
    ----------
    products : ndarray, float64, shape (m, m)
        Inner products of the updates.
    suspects : int
        f, the number of updates that may be hostile.

    Returns
    -------
    ndarray, float64, shape (m,)
        The lower, the more trustworthy.
    """
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * products, 0.0)
    np.fill_diagonal(distances, np.inf)
    count = len(products)
    neighbours = min(max(1, count - suspects - 2), count - 1)
    scores: Floats = np.sort(distances, axis=1)[:, :neighbours].sum(axis=1)
    return scores


def multi_krum(products: Floats, suspects: int, chosen: int) -> npt.NDArray[np.bool_]:
    """Return which updates to average: the `chosen` ones with the lowest scores.

    Equal scores are decided by the order of arrival.
    """
    ranked = np.argsort(krum_scores(products, suspects), kind="stable")
    mask = np.zeros(len(products), np.bool_)
    mask[ranked[:chosen]] = True
    return mask
