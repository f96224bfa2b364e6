"""How well a sequence of releases gives single updates away, whoever colludes.

A release is a sum of updates with public coefficients, so an observer can compute exactly what
lies in the row space of those coefficients. The *leverage* of an update is the squared norm of
its unit vector projected onto that space: 1 when the update can be solved for, 0 when nothing
about it can. Colluding clients know their own updates; their columns drop out of the system.

The coalition that knows most about an update would have to be sought among all subsets of clients;
:mod:`strategies.coalitions` finds a bad one. For releases that share no update it is the worst:
leverage is w^2 over the sum of the honest w^2 of one buffer, and largest when the heaviest others
collude. Otherwise what is found is a lower bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.coalitions import Search

Floats = npt.NDArray[np.float64]

UpdateKey: TypeAlias = tuple[str, int]
"""Client and base version, for which an engine counts one update."""

Coefficients: TypeAlias = Mapping[UpdateKey, float]
"""Coefficient of each update in one release."""
_EXCHANGES = 4


def leverage(coefficients: npt.ArrayLike) -> Floats:
    """Return how exactly each update can be solved for from releases.

    Parameters
    ----------
    coefficients : array_like, shape (releases, updates)
        Coefficient of each update in each release; leave out the columns of updates that the
        observer knows.

    Returns
    -------
    ndarray, float64, shape (updates,)
        Leverage of each update, in [0, 1].
    """
    matrix = np.atleast_2d(np.asarray(coefficients, np.float64))
    _, singular, basis = np.linalg.svd(matrix, full_matrices=False)
    tolerance = singular.max(initial=0.0) * max(matrix.shape) * np.finfo(np.float32).eps
    squares: Floats = np.square(basis[singular > tolerance]).sum(axis=0)
    return squares


def worst_leverage(
    releases: Sequence[Coefficients], colluders: int, *, suspected_by_latest: bool = False
) -> dict[UpdateKey, float]:
    """Return the leverage of each update under the coalition found to know most about it.

    Parameters
    ----------
    releases : sequence of Coefficients
        At least one release, none without updates.
    colluders : int
        Size of the coalition, at least 1; the update's own client is never in it.
    suspected_by_latest : bool
        Try only coalitions suspected by updates in the last of the releases.

    Returns
    -------
    dict of UpdateKey to float
        For every update with a coefficient other than 0.

    Notes
    -----
    With T releases of N updates and S of them suspecting, at most 2 S systems of T x T are inverted
    and each is applied to N columns: O(S N T^2). With several releases, exchanges around a few
    coalitions invert some dozens more.
    """
    keys = sorted({key for release in releases for key, value in release.items() if value})
    matrix = _matrix(releases, keys)
    suspecting = matrix[-1] != 0 if suspected_by_latest else np.ones(len(keys), np.bool_)
    search = Search(matrix, [client for client, _ in keys])
    found = search.largest(suspecting, colluders)
    return dict(zip(keys, found.tolist(), strict=True))


class LeverageMeter:
    """Remembers the latest releases and tells what a further one would give away.

    Memory is ``horizon`` releases, and a question costs the same after thousands of releases as
    after ``horizon``.

    Parameters
    ----------
    colluders : int
        Clients that may collude against another.
    horizon : int
        Releases looked at together, the next one included. 1 is exact when no update is in two
        releases.
    """

    def __init__(self, colluders: int, horizon: int) -> None:
        self._colluders = colluders
        self._releases: deque[Coefficients] = deque(maxlen=horizon - 1)

    def worst_after(self, release: Coefficients) -> float:
        """Return the largest leverage of any update if this were released next."""
        releases = [*self._releases, release]
        found = worst_leverage(releases, self._colluders, suspected_by_latest=True)
        return max(found.values())

    def add(self, release: Coefficients) -> None:
        """Note a release."""
        self._releases.append(release)

    def state(self) -> list[list[tuple[str, int, float]]]:
        """Return JSON data that :meth:`restore` reads."""
        return [[(*key, value) for key, value in release.items()] for release in self._releases]

    def restore(self, releases: Iterable[Iterable[tuple[str, int, float]]]) -> None:
        """Continue from a saved state."""
        self._releases.clear()
        for release in releases:
            self.add({(client, base): value for client, base, value in release})


def _matrix(releases: Sequence[Coefficients], keys: Sequence[UpdateKey]) -> Floats:
    columns = {key: column for column, key in enumerate(keys)}
    matrix = np.zeros((len(releases), len(keys)))
    for row, release in zip(matrix, releases, strict=True):
        for key, value in release.items():
            if value:
                row[columns[key]] = value
        row /= np.linalg.norm(row)
    return matrix
