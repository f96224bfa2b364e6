"""The published model: a running mean of the versions clients train from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.errors import BadOption
from strategies.update import Vector


@dataclass(frozen=True)
class RunningMean:
    """Mean of the newest ``share`` of the versions, at most of ``rounds`` uploads per client.

    Iterate averaging (Polyak and Juditsky, 1992) with a horizon: it removes the wobble that the
    order of arrival leaves in the model.

    Parameters
    ----------
    rounds : float
        Longest horizon, in uploads per client.
    share : float
        Share of the versions so far. 1 averages all of them at first, and the published model
        lags behind by half the run; a small share follows the model while it moves fast.
    """

    rounds: float = 2.0
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rounds <= 1e6:
            raise BadOption("The published mean needs between 0 and 1,000,000 rounds.")
        if not 0 < self.share <= 1:
            raise BadOption("The published mean takes a share of the versions in (0, 1].")

    def rate(self, merges: int, clients: int, uploads_per_merge: float) -> float:
        """Return the weight of the newest version, the ``merges``-th since the start."""
        horizon = max(1.0, self.rounds * clients / uploads_per_merge)
        return 1.0 / max(1.0, min(self.share * merges, horizon))


def fold(mean: Vector, newest: Vector, rate: float, scratch: Vector) -> None:
    """Move ``mean`` towards ``newest`` in place: mean <- mean + rate * (newest - mean)."""
    if rate == 1.0:
        np.copyto(mean, newest)
        return
    np.subtract(newest, mean, out=scratch)
    np.multiply(scratch, np.float32(rate), out=scratch)
    np.add(mean, scratch, out=mean)
