"""Which simulated tasks fail, and how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

# These words keep the draws apart from the jitter of `Devices`.
_TRAINING, _EVALUATIONS = 1, 3


class Fate(Enum):
    """What becomes of a task."""

    COMPLETES = "completes"
    DROPS_OUT = "drops out"
    GOES_SILENT = "goes silent"
    LEAVES = "leaves"


@dataclass(frozen=True)
class Failures:
    """Failure rates of a fleet, drawn independently for each task.

    Attributes
    ----------
    drop_out : float (default: 0.0)
        Probability that a task breaks off part-way and the node reports an error.
    silent : float (default: 0.0)
        Probability that a task is never heard of again, until its time-to-live has passed.
    seed : int (default: 0)
        Seed; a task's fate is a pure function of (seed, client, kind of task, task number).
    """

    drop_out: float = 0.0
    silent: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.drop_out, self.silent) < 0 or self.drop_out + self.silent > 1:
            raise ValueError("drop_out and silent are probabilities with a sum of at most 1")

    def fate(self, client: int, task: int, *, evaluate: bool = False) -> tuple[Fate, float]:
        """Return a task's fate and the share of its duration after which it breaks off."""
        kind = _EVALUATIONS if evaluate else _TRAINING
        draw, share = np.random.default_rng((self.seed, client, task, kind)).random(2)
        if draw < self.drop_out:
            return Fate.DROPS_OUT, float(share)
        if draw < self.drop_out + self.silent:
            return Fate.GOES_SILENT, 1.0
        return Fate.COMPLETES, 1.0
