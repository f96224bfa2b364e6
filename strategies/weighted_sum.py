"""Weighted sums in which no client decides whose values rounding takes away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strategies.robust.gram import Rows
from strategies.update import Vector

_AT_A_TIME = 1 << 20
"""Values converted to float64 at a time: 8 MiB."""


def weighted_sum(
    coefficients: Vector, rows: Rows, out: npt.NDArray[np.float32] | npt.NDArray[np.float64]
) -> None:
    """Write the weighted sum of rows, summed up in float64.

    In float32 huge values swallow what is added to them: two clients that send some of opposite
    sign would choose by the time of sending whom they swallow, and an update that comes after them
    would be left alone in the sum. In float64 rounding takes at most ``m * 2**-29`` from a
    weighted mean of m values of at most 2**24, the largest norm that a release rule lets in, see
    :func:`~strategies.screening.tightened`.

    Parameters
    ----------
    coefficients : Vector
        Coefficient of each row, shape ``(m,)``.
    rows : ndarray, float32, shape (m, columns)
        Not changed.
    out : ndarray, float32 or float64, shape (columns,)
        Room for the sum.
    """
    exact = coefficients.astype(np.float64)
    width = max(1, _AT_A_TIME // len(rows))
    for start in range(0, out.size, width):
        columns = slice(start, start + width)
        out[columns] = exact @ rows[:, columns].astype(np.float64)
