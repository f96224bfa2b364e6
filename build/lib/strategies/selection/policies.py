"""Selection policies: sampling weights of idle clients, as pure functions of the estimates.

A policy that is certain whom it wants gives everybody else the weight 0. Clients never tried are
asked first where a policy needs an estimate it can only get that way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from strategies.errors import BadOption
from strategies.selection.history import Column, Estimates

# Relative duration that stands for "no time at all"; keeps weights finite.
_SHORTEST = 1e-9


class Policy(Protocol):
    """Who should get the next task."""

    @property
    def name(self) -> str:
        """Name in the catalogue."""
        ...

    def weights(self, known: Estimates) -> Column:
        """Return the relative probability of each client, shape (n,); not all may be 0."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Everybody alike."""

    name: ClassVar[str] = "uniform"

    def weights(self, known: Estimates) -> Column:
        """Return 1 for everybody."""
        return np.ones(len(known.clients))


@dataclass(frozen=True)
class Speed:
    """Fast clients rather than slow ones: weight = duration ** -exponent.

    Parameters
    ----------
    exponent : float
        1 makes a client twice as fast twice as likely; 0 is uniform after the first tasks.
    """

    exponent: float = 1.0
    name: ClassVar[str] = "speed"

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 10:
            raise BadOption("The exponent of speed must lie between 0 and 10.")

    def weights(self, known: Estimates) -> Column:
        """Return the weights; clients never tried come first."""
        return explore_first(known, np.maximum(known.duration, _SHORTEST) ** -self.exponent)


@dataclass(frozen=True)
class LoadAware:
    """Clients with time to spare: weight = max(100 - utilisation, floor).

    A client never tried has a utilisation of 0 and so the highest weight.

    Parameters
    ----------
    floor : float
        Weight of a client that is always busy, above 0 and at most 100.
    """

    floor: float = 10.0
    name: ClassVar[str] = "load-aware"

    def __post_init__(self) -> None:
        if not 0 < self.floor <= 100:
            raise BadOption("The floor of load-aware must lie above 0 and at most at 100.")

    def weights(self, known: Estimates) -> Column:
        """Return the weights."""
        return np.maximum(100.0 - known.utilisation, self.floor)


@dataclass(frozen=True)
class Auction:
    """The highest bid wins: bid = 1 / (cost + epsilon) + reliability * share delivered.

    The cost is the expected task duration relative to the mean. Equal bids are drawn from. Whoever
    bids less than enough others is never asked again, however long it waits: with few tasks in
    flight the slow clients starve, and what only they hold is not learnt.

    Parameters
    ----------
    epsilon : float
        Bounds the bid of a task that takes no time, above 0.
    reliability : float
        Weight of the share of tasks delivered.
    """

    epsilon: float = 1e-3
    reliability: float = 0.3
    name: ClassVar[str] = "auction"

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1e6:
            raise BadOption("The epsilon of auction must lie above 0 and at most at 1,000,000.")
        if not 0 <= self.reliability <= 1e6:
            raise BadOption("The reliability of auction must lie between 0 and 1,000,000.")

    def weights(self, known: Estimates) -> Column:
        """Return 1 for the highest bids, 0 for all others; clients never tried come first."""
        offers = bids(known.duration, known.reliability, self.epsilon, self.reliability)
        return explore_first(known, highest(offers))


def bids(cost: Column, reliability: Column, epsilon: float = 1e-3, weight: float = 0.3) -> Column:
    """Return 1 / (cost + epsilon) + weight * reliability, shape (n,)."""
    return 1.0 / (cost + epsilon) + weight * reliability


def highest(offers: Column) -> Column:
    """Return 1 where an offer is the highest, 0 elsewhere, shape (n,)."""
    return np.asarray(offers == offers.max(), np.float64)


def explore_first(known: Estimates, weights: Column) -> Column:
    """Return equal weights for the clients never tried; `weights` if there are none."""
    return known.untried.astype(np.float64) if known.untried.any() else weights
