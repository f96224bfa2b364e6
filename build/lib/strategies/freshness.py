"""Staleness functions s(tau): how much an old update still counts.

All but :class:`Growing` are from Xie et al., *Asynchronous Federated Optimization* (1903.03934),
section 5; every one gives a fresh update (tau = 0) the weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from strategies.errors import BadOption


class Freshness(Protocol):
    """Weight of an update by its staleness."""

    def weight(self, staleness: float) -> float:
        """Return s(tau) > 0 for tau >= 0."""
        ...


@dataclass(frozen=True)
class Constant:
    """s(tau) = 1."""

    def weight(self, staleness: float) -> float:
        """Return 1 whatever the staleness."""
        return 1.0


@dataclass(frozen=True)
class Polynomial:
    """s(tau) = (1 + tau) ** -exponent.

    Parameters
    ----------
    exponent : float
        The paper's ``a``; 0.5 gives 1 / sqrt(1 + tau).
    """

    exponent: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 100:
            raise BadOption("The staleness exponent must lie between 0 and 100.")

    def weight(self, staleness: float) -> float:
        """Return (1 + staleness) ** -exponent."""
        return float((1.0 + staleness) ** -self.exponent)


@dataclass(frozen=True)
class Hinge:
    """s(tau) = 1 up to ``delay``, then 1 / (slope * (tau - delay) + 1).

    Parameters
    ----------
    slope : float
        The paper's ``a``.
    delay : float
        The paper's ``b``: staleness that costs nothing.
    """

    slope: float = 10.0
    delay: float = 4.0

    def __post_init__(self) -> None:
        if not (0 <= self.slope <= 1e6 and 0 <= self.delay <= 1e6):
            raise BadOption("Slope and delay of the hinge must lie between 0 and 1,000,000.")

    def weight(self, staleness: float) -> float:
        """Return the hinge's weight."""
        return 1.0 / (self.slope * max(0.0, staleness - self.delay) + 1.0)


@dataclass(frozen=True)
class Growing:
    """s(tau) = 1 + tau: late updates count more, for they are the rarer ones."""

    def weight(self, staleness: float) -> float:
        """Return 1 + staleness."""
        return 1.0 + staleness
