"""When a merged model may leave, and how much of it one client may be.

Successive models of overlapping windows are a system of linear equations with public
coefficients: it can be solved for single updates. Under a release rule every update is used
exactly once, in a buffer of at least k distinct clients none of which dominates it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strategies.errors import BadOption

Floats = npt.NDArray[np.float64]
_ROUNDING = 1e-9
# A client below this share of the mean weight hides nobody: its weight is raised to it.
_LEAST = 0.01
_TINY = 1e-12


@dataclass(frozen=True)
class ReleaseRule:
    """What every released aggregate must satisfy.

    Parameters
    ----------
    k : int
        Smallest number of distinct clients, at least 2.
    max_per_client : int
        Most updates of one client in a buffer.
    max_share : float, optional
        Largest share of the total weight one client may have; 2 / k by default.
    min_effective : float, optional
        Smallest effective number of clients (sum w)^2 / sum w^2; k / 2 by default, and no less
        than 1.5, which leaves one of two clients at most 79 % of the weight.
    max_leverage : float, optional
        Largest leverage of a single update, over the latest releases and with k - 1 clients
        colluding (:mod:`strategies.leverage`), and of one client's updates in a buffer together;
        from 1 / (k + 1) to below 1. None: no bound.

    Raises
    ------
    BadOption
        A bound that no buffer of k clients could satisfy, or that protects nobody.
    """

    k: int
    max_per_client: int = 1
    max_share: float | None = None
    min_effective: float | None = None
    max_leverage: float | None = None

    def __post_init__(self) -> None:
        if type(self.k) is not int or self.k < 2:
            raise BadOption("The release rule needs k >= 2: one client alone hides behind nobody.")
        if type(self.max_per_client) is not int or self.max_per_client < 1:
            raise BadOption("max_per_client must be an integer of at least 1.")
        if not 1 / self.k <= self.share_bound <= 1:
            raise BadOption("max_share must lie between 1 / k and 1.")
        if not 1 <= self.effective_bound <= self.k:
            raise BadOption("min_effective must lie between 1 and k.")
        if self.max_leverage is not None and not 1 / (self.k + 1) <= self.max_leverage < 1:
            # Of 2 k clients k - 1 may collude; equal weights of the others give 1 / (k + 1).
            raise BadOption("max_leverage must be at least 1 / (k + 1) and below 1.")

    @property
    def share_bound(self) -> float:
        """The bound on one client's share in force."""
        return min(1.0, 2 / self.k) if self.max_share is None else self.max_share

    @property
    def effective_bound(self) -> float:
        """The bound on the effective number of clients in force."""
        return max(1.5, self.k / 2) if self.min_effective is None else self.min_effective

    def enough_clients(self, clients: Sequence[str]) -> bool:
        """Whether the updates come from k distinct clients, none above its quota."""
        counts = Counter(clients)
        return len(counts) >= self.k and max(counts.values()) <= self.max_per_client

    def even_weights(self, clients: Sequence[str], weights: Sequence[float]) -> tuple[float, ...]:
        """Even out the weights until no client exceeds its share and none vanishes.

        The weights of :meth:`evened` are scaled so that the total is kept.

        Parameters
        ----------
        clients : sequence of str
            Client of each update.
        weights : sequence of float
            Weight of each update, not negative, one of them positive.

        Returns
        -------
        tuple of float
            Weights with the same sum that :meth:`allows` accepts when the clients are enough.
        """
        owners = np.unique(np.array([*clients], object), return_inverse=True)[1]
        own = np.array(weights, np.float64)
        by_client = np.bincount(owners, own).astype(np.float64)
        even = self.evened(by_client)
        even *= by_client.sum() / even.sum()
        # A client whose updates all weigh nothing has its weight spread over them.
        weightless = by_client[owners] == 0
        own[weightless] = 1.0
        shares = own / np.bincount(owners, own)[owners]
        return tuple((shares * even[owners]).tolist())

    def allows(self, clients: Sequence[str], weights: Sequence[float]) -> bool:
        """Whether an aggregate of these updates with these weights may be released.

        Parameters
        ----------
        clients : sequence of str
            Client of each update.
        weights : sequence of float
            Weight of each update; clients below a hundredth of the mean weight of those above 0
            hide nobody and do not count.

        Returns
        -------
        bool
        """
        inside = [(c, weight) for c, weight in zip(clients, weights, strict=True) if weight]
        if not inside:
            return False
        totals: dict[str, float] = {}
        for client, weight in inside:
            totals[client] = totals.get(client, 0.0) + weight
        shares = np.array(list(totals.values()))
        counted = shares >= _LEAST * shares.mean() * (1 - _ROUNDING)
        return bool(
            counted.sum() >= self.k
            and self.enough_clients([client for client, _ in inside])
            and shares.max() <= self.share_bound * shares.sum() * (1 + _ROUNDING)
            and effective_number(shares) >= self.effective_bound * (1 - _ROUNDING)
        )

    def evened(self, weights: Floats) -> Floats:
        """Return weights clipped at :meth:`level`, none below a hundredth of their mean.

        Raising the smallest lowers the share of the largest and adds to the effective number.

        Parameters
        ----------
        weights : ndarray, float64, shape (clients,)
            Total weight of each client, none negative, one positive.
        """
        positive = np.maximum(weights, weights.max() * _TINY)
        capped = np.minimum(positive, self.level(positive))
        # What is raised adds to the mean, at most as much as the smallest ends up with.
        even: Floats = np.maximum(capped, capped.mean() * _LEAST / (1 - _LEAST))
        return even

    def level(self, weights: Floats) -> float:
        """Return the level at which to clip the clients' weights.

        Parameters
        ----------
        weights : ndarray, float64, shape (clients,)
            Positive total weight of each client, at least k of them.

        Returns
        -------
        float
            The largest level T for which ``minimum(weights, T)`` keeps both bounds.
        """
        level = _share_level(weights, self.share_bound)
        if effective_number(np.minimum(weights, level)) >= self.effective_bound:
            return level
        return _effective_level(weights, level, self.effective_bound)


def effective_number(weights: Floats) -> float:
    """Return (sum w)^2 / sum w^2, the number of equal weights of the same concentration."""
    scaled = weights / weights.max()
    return float(scaled.sum() ** 2 / np.square(scaled).sum())


def _share_level(weights: Floats, share: float) -> float:
    # With the m largest clipped at T and R the rest: T = share * (m T + R).
    # Rests are summed from the small end: subtracting large weights from a total would lose them.
    ascending = np.sort(weights)
    ordered, rests = ascending[::-1], np.cumsum(ascending)[::-1]
    if ordered[0] <= share * rests[0]:
        return float(ordered[0])
    for clipped in range(1, len(ordered)):
        room, rest = 1 - clipped * share, rests[clipped]
        if room <= _ROUNDING:
            return float(ordered[clipped - 1])
        if share * rest >= ordered[clipped] * room:
            return float(share * rest / room)
    return float(ordered[-1])


def _effective_level(weights: Floats, too_high: float, bound: float) -> float:
    # Clipping lower only evens the weights out, so the effective number grows as T falls;
    # at the smallest weight it is the number of clients.
    low, high = float(weights.min()), too_high
    for _ in range(60):
        middle = (low + high) / 2
        if effective_number(np.minimum(weights, middle)) >= bound:
            low = middle
        else:
            high = middle
    return low
