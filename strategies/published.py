"""The published model: a running mean of the versions clients train from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.errors import BadOption
from strategies.update import Vector


@dataclass(frozen=True)
class RunningMean:
    """Mean of all versions at first, of about the last ``rounds`` uploads per client later.

    Iterate averaging (Polyak and Juditsky, 1992) with a horizon: it removes the wobble that the
    order of arrival leaves in the model.

    Parameters
    ----------
    rounds : float
        Horizon in uploads per client.
    """

    rounds: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.rounds <= 1e6:
            raise BadOption("The published mean needs between 0 and 1,000,000 rounds.")

    def rate(self, merges: int, clients: int, uploads_per_merge: float) -> float:
        """Return the weight of the newest version, the ``merges``-th since the start."""
        horizon = max(1.0, self.rounds * clients / uploads_per_merge)
        return 1.0 / min(float(merges), horizon)


def fold(mean: Vector, newest: Vector, rate: float, scratch: Vector) -> None:
    """Move ``mean`` towards ``newest`` in place: mean <- mean + rate * (newest - mean)."""
    if rate == 1.0:
        np.copyto(mean, newest)
        return
    np.subtract(newest, mean, out=scratch)
    np.multiply(scratch, np.float32(rate), out=scratch)
    np.add(mean, scratch, out=mean)
