"""A gain that tunes itself: the model moves equally far per round, not per upload."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.errors import BadOption


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
    """

    shortest: float

    def __post_init__(self) -> None:
        if not 1 <= self.shortest < float("inf"):
            raise BadOption("The shortest round must be a finite number of uploads, at least 1.")

    def share(self, uploads: int, round_uploads: float) -> float:
        """Return the share of a round that a merge of ``uploads`` stands for."""
        return uploads / max(self.shortest, round_uploads)
