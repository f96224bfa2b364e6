"""Weighted sums in which no client decides whose values rounding takes away."""

from __future__ import annotations

import numpy as np

from strategies.robust.gram import Rows
from strategies.update import Vector


def masked_sum(coefficients: Vector, rows: Rows, out: Vector) -> None:
    """Write the weighted sum of rows, those with the largest values added first.

    Huge values swallow what is added to them. Were rows added as they come, two clients that send
    huge values of opposite sign would choose by the time of sending whom they swallow, and an
    update that comes after them would be left alone in the sum. Added first, they have cancelled
    before anything else is there, or swallow everybody. In float64 a row loses nothing beside
    one with values up to 2**29 times as large as would swallow it in the float32 result.

    Parameters
    ----------
    coefficients : Vector
        Coefficient of each row, shape ``(m,)``.
    rows : ndarray, float32, shape (m, columns)
        Not changed.
    out : Vector
        Room for the sum, shape ``(columns,)``.
    """
    largest = np.abs(coefficients) * np.maximum(rows.max(axis=1), -rows.min(axis=1))
    total = np.zeros(out.size)
    for index in np.argsort(-largest, kind="stable"):
        total += np.multiply(rows[index], coefficients[index], dtype=np.float64)
    np.copyto(out, total, casting="same_kind")
