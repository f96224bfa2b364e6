"""What a gain that tunes itself remembers between merges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from strategies.gain import SelfTuning
from strategies.recipe import Parts
from strategies.roles import Statistics
from strategies.update import Vector

_BLOCK = 65536


class GainTuner:
    """Follow the rounds of a run and tune its gain; keeps 3 P floats.

    Parameters
    ----------
    tuning : SelfTuning
        How the gain changes.
    params : Vector
        Initial model, shape ``(P,)``.

    Attributes
    ----------
    factor : float
        The gain.
    """

    def __init__(self, tuning: SelfTuning, params: Vector) -> None:
        self._tuning = tuning
        self.factor = tuning.first
        self._uploads = 0
        # <D, d> of the round before, 0 while there is none.
        self._slope = 0.0
        self._start = params.copy()
        self._way = np.zeros_like(self._start)
        self._total = np.zeros_like(self._start)

    def hear(self, delta: Vector, columns: slice, apart: Statistics | None) -> None:
        """Add columns of an update's delta to those of its round, all but those set apart."""
        total = self._total[columns]
        # What overflows teaches nothing, and is gone with its round.
        with np.errstate(over="ignore"):
            total += delta
        if apart is not None:
            total[apart.places] = 0.0

    def merged(self, params: Vector, uploads: int, round_uploads: float) -> None:
        """Note a merge of ``uploads`` into ``params``; at the end of a round tune the gain."""
        self._uploads += uploads
        if self._uploads < max(self._tuning.shortest, round_uploads):
            return
        after = _inner(self._total, self._way) / self._uploads
        self.factor = self._tuning.next(self.factor, self._slope, after)
        np.subtract(params, self._start, out=self._way)
        slope = _inner(self._total, self._way) / self._uploads
        self._slope = slope if math.isfinite(slope) else 0.0
        np.copyto(self._start, params)
        self._total.fill(0.0)
        self._uploads = 0

    def state(self) -> tuple[Any, dict[str, Vector]]:
        """Return what :meth:`restore` reads: JSON data, and independent copies of arrays."""
        meta = {"factor": self.factor, "uploads": self._uploads, "slope": self._slope}
        return meta, {name: array.copy() for name, array in self._arrays().items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays of :meth:`state`."""
        return {name: array.shape for name, array in self._arrays().items()}

    def restore(self, meta: Any, arrays: Mapping[str, Vector]) -> None:
        """Continue from a saved state, or change nothing and raise."""
        factor, uploads, slope = float(meta["factor"]), int(meta["uploads"]), float(meta["slope"])
        in_bounds = self._tuning.least <= factor <= self._tuning.most
        if not in_bounds or uploads < 0 or not math.isfinite(slope):
            raise ValueError("a gain out of its bounds")
        self.factor, self._uploads, self._slope = factor, uploads, slope
        for name, array in self._arrays().items():
            np.copyto(array, arrays[name])

    def _arrays(self) -> dict[str, Vector]:
        return {"round_start": self._start, "round_way": self._way, "round_total": self._total}


def tuner_for(parts: Parts, params: Vector) -> GainTuner | None:
    """Return what tunes the gain of a recipe, None for a gain that stays."""
    if parts.gain is None or parts.gain.tuning is None:
        return None
    return GainTuner(parts.gain.tuning, params)


def _inner(one: Vector, other: Vector) -> float:
    """Return the inner product in double precision, a block at a time."""
    blocks = (slice(start, start + _BLOCK) for start in range(0, one.size, _BLOCK))
    with np.errstate(over="ignore", invalid="ignore"):
        return sum(float(one[b].astype(np.float64) @ other[b].astype(np.float64)) for b in blocks)
