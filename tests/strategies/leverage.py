"""How well a sequence of released models gives single updates away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def leverage(coefficients: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return how exactly each update can be solved for from the releases.

    The differences of successive models are known linear combinations of the updates. An
    observer can compute exactly what lies in the row space of the coefficients: the squared
    norm of an update's unit vector projected onto that space is 1 when the update is solvable
    and 0 when nothing about it is. To model colluding clients, leave out the columns of their
    updates.

    Parameters
    ----------
    coefficients : array_like, shape (releases, updates)
        Coefficient of each update in each release.

    Returns
    -------
    ndarray, float64, shape (updates,)
        Leverage of each update, in [0, 1].
    """
    matrix = np.atleast_2d(np.asarray(coefficients, np.float64))
    _, singular, basis = np.linalg.svd(matrix, full_matrices=False)
    tolerance = singular.max(initial=0.0) * max(matrix.shape) * np.finfo(np.float32).eps
    squares: npt.NDArray[np.float64] = np.square(basis[singular > tolerance]).sum(axis=0)
    return squares
