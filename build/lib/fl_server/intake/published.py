"""The published model of a confidential run: the recipe's running mean over releases.

The enclave releases the model clients train from; averaging releases needs nothing secret.
"""

from __future__ import annotations

import numpy as np

from strategies.published import fold
from strategies.recipe import Parts
from strategies.update import Vector, frozen


class PublishedMean:
    """Running mean of released versions, as `strategies.engine.Engine` keeps it.

    Parameters
    ----------
    parts : Parts
        Parts of the recipe; without a running mean the newest version is published.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._merges = 0
        self._mean: Vector | None = None
        self._scratch: Vector | None = None

    def state(self) -> tuple[int, Vector | None]:
        """Return the number of versions folded in, and their mean if there is one."""
        return self._merges, self._mean

    def restore(self, merges: int, mean: Vector | None) -> None:
        """Go on from a `state`; the mean is taken over."""
        self._merges = merges
        if mean is not None:
            self._mean, self._scratch = mean, np.empty_like(mean)

    def add(self, params: Vector, num_clients: int) -> Vector:
        """Fold a version in and return the model to publish, read-only.

        Parameters
        ----------
        params : ndarray of float32, shape (P,)
            The newest version.
        num_clients : int
            Clients heard of so far.
        """
        if self._parts.published is None:
            return params
        if self._mean is None or self._scratch is None:
            self._mean, self._scratch = np.empty_like(params), np.empty_like(params)
        self._merges += 1
        clients = self._parts.num_clients or max(1, num_clients)
        rate = self._parts.published.rate(self._merges, clients, self._parts.uploads_per_merge)
        fold(self._mean, params, rate, self._scratch)
        return frozen(self._mean.copy())
