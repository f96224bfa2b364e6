"""Search for the coalition of clients to which releases give a single update away.

Trying all subsets is out of the question. Every update suspects two coalitions: the clients with
most weight in the releases that it is in, and those with most weight among the updates that were
new in the first of these. The latter knows most where the rest of a release is known from others,
as with cached deltas: subtracted, it leaves the buffer alone. All suspected coalitions are tried on
all updates. From the worst found, members are then exchanged for others as long as an update
becomes better known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.intp]

# Directions that rows of unit norm hold only to a millionth drown in the rounding of float32.
_RIDGE = 1e-12
# Coalitions whose systems are inverted together: a few megabytes at a horizon of 32.
_BLOCK = 64
# Updates from whose worst coalition members are exchanged, and exchanges computed per step. Four
# times as many of the one, or three times as many of the other, find hardly more.
_UPDATES, _EXCHANGES = 8, 4
_LITTLE = 1e-6


class Search:
    """The equations that releases are, and what coalitions make of them.

    With c the column of an update and G the Gram matrix of the rows without the columns of the
    coalition, leverage is c^T G^-1 c.

    Parameters
    ----------
    matrix : ndarray, float64, shape (releases, updates)
        Coefficients, in rows of unit norm and without a column of zeros.
    clients : sequence of str
        Client of each column, in ascending order.
    """

    def __init__(self, matrix: Floats, clients: Sequence[str]) -> None:
        self._matrix = matrix
        _, self._starts, self._owners = np.unique(
            np.array(clients, object), return_index=True, return_inverse=True
        )
        self._grams = self._sum_by_client(np.einsum("tn,un->ntu", matrix, matrix), axis=0)
        self._everyone = self._grams.sum(axis=0) + _RIDGE * np.eye(len(matrix))
        self._found = np.zeros(len(clients))

    def largest(self, suspecting: Flags, colluders: int) -> Floats:
        """Return the largest leverage found of each update, shape (updates,).

        Parameters
        ----------
        suspecting : ndarray of bool, shape (updates,)
            Whose suspicions to follow.
        colluders : int
            Size of the coalition; the update's own client is never in it.
        """
        size = min(colluders, len(self._starts) - 1)
        self._worst = np.zeros((len(self._found), size), np.intp)
        self._try(self._suspects(suspecting, size))
        if len(self._matrix) > 1:
            for column in np.argsort(-self._found, kind="stable")[:_UPDATES].tolist():
                if self._found[column]:
                    self._exchange_members(column)
        return np.clip(self._found, 0.0, 1.0)

    def _suspects(self, suspecting: Flags, size: int) -> Whole:
        """Return coalitions to try, shape (coalitions, members)."""
        squares = np.square(self._matrix)
        firsts = np.argmax(squares > 0, axis=0)
        new = np.where(np.arange(len(squares))[:, None] == firsts, squares, 0.0)
        columns = np.flatnonzero(suspecting)
        by_client, new_by_client = (self._sum_by_client(s, axis=1) for s in (squares, new))
        scores = np.vstack([squares[:, columns].T @ by_client, new_by_client[firsts[columns]]])
        scores[np.arange(len(scores)), np.tile(self._owners[columns], 2)] = -1.0
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :size]
        suspects: Whole = np.unique(np.sort(ranked, axis=1), axis=0)
        return suspects

    def _try(self, coalitions: Whole) -> None:
        """Note the largest leverage of each column under any coalition without its owner."""
        for start in range(0, len(coalitions), _BLOCK):
            block = coalitions[start : start + _BLOCK]
            gram = np.repeat(self._everyone[None], len(block), axis=0)
            for member in block.T:
                gram -= self._grams[member]
            values = ((np.linalg.inv(gram) @ self._matrix) * self._matrix).sum(axis=1)
            for member in block.T:
                values[self._owners == member[:, None]] = 0.0
            best = values.argmax(axis=0)
            largest = values[best, np.arange(len(best))]
            better = largest > self._found
            self._found[better] = largest[better]
            self._worst[better] = block[best[better]]

    def _exchange_members(self, column: int) -> None:
        """Follow the best exchanges from the worst coalition of a column while they help it."""
        coalition, known = self._worst[column], float(self._found[column])
        for _ in range(len(coalition)):
            exchanged, value = self._best_exchange(column, coalition)
            if value <= known + _LITTLE:
                break
            coalition, known = exchanged, value
        self._try(coalition[None])

    def _best_exchange(self, column: int, coalition: Whole) -> tuple[Whole, float]:
        """Return the coalition with the best exchange found, and a column's leverage under it.

        The gain by a client who joins is estimated by what each of its columns would gain alone,
        exact for a client with one (Sherman and Morrison, 1950); the best estimates are computed.
        """
        c = self._matrix[:, column]
        gram = self._everyone - self._grams[coalition].sum(axis=0)
        left = gram + self._grams[coalition]
        inverse = np.linalg.inv(left)
        solved = inverse @ c
        held = ((inverse @ self._matrix) * self._matrix).sum(axis=1)
        gains = np.square(solved @ self._matrix) / np.maximum(1.0 - held, _LITTLE)
        estimates = (solved @ c)[:, None] + self._sum_by_client(gains, axis=1)
        estimates[:, coalition] = estimates[:, self._owners[column]] = -np.inf
        likely = np.argsort(-estimates, axis=None, kind="stable")[:_EXCHANGES]
        leaves, joins = np.unravel_index(likely, estimates.shape)
        possible = np.isfinite(estimates[leaves, joins])
        leaves, joins = leaves[possible], joins[possible]
        if not len(joins):
            return coalition, 0.0
        values = np.linalg.inv(left[leaves] - self._grams[joins]) @ c @ c
        best = int(values.argmax())
        exchanged = coalition.copy()
        exchanged[leaves[best]] = joins[best]
        return exchanged, float(values[best])

    def _sum_by_client(self, columns: Floats, axis: int) -> Floats:
        sums: Floats = np.add.reduceat(columns, self._starts, axis=axis)
        return sums
