"""Weighted sums in which no client decides whose values rounding takes away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strategies.robust.gram import Rows
from strategies.update import Vector

_ALIKE = 16.0
"""Rows whose largest values differ by no more are summed up in float32."""


def weighted_sum(
    coefficients: Vector, rows: Rows, out: npt.NDArray[np.float32] | npt.NDArray[np.float64]
) -> None:
    """Write the weighted sum of rows, in float64 unless they are alike.

    In float32 huge values swallow what is added to them: two clients that send some of opposite
    sign would choose by the time of sending whom they swallow, and an update that comes after them
    would be left alone in the sum. In float64 values of 2**-29 are kept beside those of the largest
    norm that a release rule lets in, see :func:`~strategies.screening.tightened`. Among rows that
    are alike none loses more in float32 than 2**-20 of its own largest value.

    Parameters
    ----------
    coefficients : Vector
        Coefficient of each row, shape ``(m,)``.
    rows : ndarray, float32, shape (m, columns)
        Not changed.
    out : ndarray, float32 or float64, shape (columns,)
        Room for the sum.
    """
    largest = np.abs(coefficients) * np.maximum(rows.max(axis=1), -rows.min(axis=1))
    heard = largest[largest > 0]
    if heard.size and heard.max() > _ALIKE * heard.min():
        total = coefficients.astype(np.float64) @ rows.astype(np.float64)
        np.copyto(out, total, casting="same_kind")
    else:
        np.matmul(coefficients, rows, out=out)
