"""Inner products of whole updates, taken block by block."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.float32]

_BLOCK = 65536


def inner_products(rows: Rows, others: Rows) -> Floats:
    """Return the inner product of every row with every other one.

    The sums are taken in float64, where no update that passed the screening overflows.

    Parameters
    ----------
    rows : ndarray, float32, shape (m, P)
        Updates.
    others : ndarray, float32, shape (n, P)
        The same updates, or others.

    Returns
    -------
    ndarray, float64, shape (m, n)
    """
    total = np.zeros((len(rows), len(others)))
    for start in range(0, rows.shape[1], _BLOCK):
        columns = slice(start, start + _BLOCK)
        block = rows[:, columns].astype(np.float64)
        total += block @ (block if others is rows else others[:, columns].astype(np.float64)).T
    return total


def lengths(rows: Rows) -> Floats:
    """Return the L2 norm of each row, shape (m,)."""
    total = np.zeros(len(rows))
    for start in range(0, rows.shape[1], _BLOCK):
        block = rows[:, start : start + _BLOCK].astype(np.float64)
        total += np.einsum("ij,ij->i", block, block)
    return np.sqrt(total)
