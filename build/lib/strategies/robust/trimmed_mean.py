"""Coordinate-wise trimmed mean, and the median as its extreme case.

Yin, Chen, Ramchandran and Bartlett, *Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates* (ICML 2018), definitions 1 and 2: in each coordinate, leave out the b largest and
the b smallest of m values and average the rest; the median is what is left of the largest b.
"""

from __future__ import annotations

import numpy as np

from strategies.robust.gram import Floats, Rows
from strategies.robust.ordering import sorted_columns


def replace_extremes(rows: Rows, weights: Floats, cut: int) -> None:
    """Replace in each column the values left out by the weighted mean of those kept.

    The weighted mean of all rows then is the weighted trimmed mean, and whoever remembers a row
    remembers nothing that was left out. Values equal to the outermost ones kept are kept, too.

    Parameters
    ----------
    rows : ndarray, float32, shape (m, columns)
        A block of the buffer; changed in place.
    weights : ndarray, float64, shape (m,)
        Positive weight of each row.
    cut : int
        b, with 2 b < m.
    """
    if not cut:
        return
    ranks = sorted_columns(rows)
    low, high = ranks[cut], ranks[-1 - cut]
    kept = (rows >= low) & (rows <= high)
    shares = (weights / weights.sum()).astype(np.float32)
    mean = shares @ np.where(kept, rows, np.float32(0.0))
    mean /= shares @ kept.astype(np.float32)
    # Rounding must not carry the mean beyond what was kept.
    np.clip(mean, low, high, out=mean)
    np.copyto(rows, mean, where=~kept)


def median_cut(count: int) -> int:
    """Return b for the median of so many values: one is left, or two of an even number."""
    return (count - 1) // 2
