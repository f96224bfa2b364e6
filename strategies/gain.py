"""A gain that tunes itself: how far the model moves per round, and what a round shows of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from strategies.errors import BadOption


@dataclass(frozen=True)
class SelfTuning:
    """Lengthen the step while the deltas keep pointing along it, shorten it when they turn.

    With d the way the model went in a round and D the mean of the round's deltas, D' that of the
    round after it,

        rho = <D', d> / <D, d>;   gain *= exp(speed * (min(max(rho, -1), 1) - target))

    within [least, most]: rho is what is left of the deltas' slope along the way, 1 where the step
    was too short to matter, 0 where it led to the bottom, negative where it led beyond. This is
    the secant quotient of Barzilai and Borwein (*Two-Point Step Size Gradient Methods*, 1988) put
    to the test that hypergradient descent makes at every step (Baydin et al., ICLR 2018,
    1703.04782, section 2); cached deltas do not count, because they point where they did.

    Parameters
    ----------
    shortest : float
        Uploads that a round is taken to have at least.
    target : float
        The rho that leaves the gain as it is.
    speed : float
        How quickly it changes.
    first : float
        The gain at first, when no cached delta is old.
    least, most : float
        Its bounds.
    """

    shortest: float
    target: float = 0.4
    speed: float = 1.0
    first: float = 2.0
    least: float = 1.0
    most: float = 8.0

    def __post_init__(self) -> None:
        _check_round(self.shortest)
        if not -1 <= self.target <= 1:
            raise BadOption("The target of a gain that tunes itself must lie in [-1, 1].")
        if not 0 < self.speed <= 10:
            raise BadOption("The speed of a gain that tunes itself must lie in (0, 10].")
        if not 0 < self.least <= 1 <= self.most <= 1e6:
            raise BadOption("The bounds of a gain must enclose 1, the upper one at most 1,000,000.")
        if not self.least <= self.first <= self.most:
            raise BadOption("A gain must begin within its bounds.")

    def next(self, factor: float, before: float, after: float) -> float:
        """Return the gain after a round.

        Parameters
        ----------
        factor : float
            The gain so far.
        before, after : float
            <D, d> and <D', d>. Nothing is learnt unless the first is positive, as it is not
            where the model went against the deltas.
        """
        if not (before > 0.0 and math.isfinite(before) and math.isfinite(after)):
            return factor
        rho = min(max(after / before, -1.0), 1.0)
        return min(max(factor * math.exp(self.speed * (rho - self.target)), self.least), self.most)


@dataclass(frozen=True)
class RoundGain:
    """Divide the step by the number of uploads in a round.

    A round is the number of uploads, of all clients, in which the median client uploads once.
    The more a few fast clients dominate the uploads, or the more clients take turns, the longer
    a round, and the longer the cached deltas of most clients are applied again and again: a
    fixed step per upload is too long for the one fleet and too short for the other.

    Parameters
    ----------
    shortest : float
        Uploads that a round is taken to have at least, also while too little is known.
    tuning : SelfTuning, optional
        What lengthens or shortens the step besides.
    shortest_of_statistics : float, optional
        The same for running statistics; ``shortest`` by default. Below the number of tasks in
        flight they overshoot.
    """

    shortest: float
    tuning: SelfTuning | None = None
    shortest_of_statistics: float | None = None

    def __post_init__(self) -> None:
        _check_round(self.shortest)
        if self.shortest_of_statistics is not None:
            _check_round(self.shortest_of_statistics)

    def share(self, uploads: int, round_uploads: float) -> float:
        """Return the share of a round that a merge of ``uploads`` stands for."""
        return uploads / max(self.shortest, round_uploads)

    def share_of_statistics(self, uploads: int, round_uploads: float) -> float:
        """Return the share of the mean delta that running statistics follow, at most 1."""
        shortest = self.shortest_of_statistics or self.shortest
        return min(1.0, uploads / max(shortest, round_uploads))


def _check_round(shortest: float) -> None:
    if not 1 <= shortest < float("inf"):
        raise BadOption("The shortest round must be a finite number of uploads, at least 1.")
