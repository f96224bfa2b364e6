"""How much of a client's last delta tells of its next one, fitted as the deltas come.

With m the mean of the cached deltas h, a delta D corrected to D - c h + c m has the mean that it
had, whatever c is, and the least variance among clients at

    c = Cov(D, h) / Var(h) = 1 + Cov(D - h, h) / Var(h)

(Owen, *Monte Carlo theory, methods and examples*, 2013, section 8.9, "Control variates"). Where
clients' data differ much c is near 1, as in CA2FL; where they are alike what sets a client's last
delta apart was chance, c is near 0, and nothing old is applied again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from strategies.roles import Statistics
from strategies.update import Vector


class FittedCoefficient:
    """The coefficient c, from products over the newest deltas that forget the older ones.

    Parameters
    ----------
    memory : float
        How many uploads it remembers, about.
    """

    def __init__(self, memory: float) -> None:
        self._keep = 1.0 - 1.0 / memory
        self._covariance = self._variance = 0.0
        self._heard = (0.0, 0.0)

    @property
    def value(self) -> float:
        """The coefficient, in [0, 1]; 1 as long as nothing is known."""
        if not 0.0 < self._variance < math.inf:
            return 1.0
        return min(max(1.0 + self._covariance / self._variance, 0.0), 1.0)

    def correct(
        self, news: Vector, delta: Vector, mean: Vector, statistics: Statistics | None
    ) -> None:
        """Turn an innovation D - h into D - c h, and hear of it.

        Parameters
        ----------
        news : Vector
            The innovation, changed in place.
        delta : Vector
            D.
        mean : Vector
            m; all of the same shape.
        statistics : Statistics, optional
            Columns that tell nothing: their size is not that of the others.
        """
        cached = delta - news
        apart = cached - mean
        if statistics is not None:
            apart[statistics.places] = 0.0
        covariance, variance = self._heard
        # What is too large to be told is not learnt from.
        with np.errstate(over="ignore", invalid="ignore"):
            self._heard = (covariance + float(news @ apart), variance + float(apart @ apart))
        cached *= 1.0 - self.value
        news += cached

    def commit(self) -> None:
        """Learn from what was heard of an upload."""
        covariance, variance = self._heard
        if math.isfinite(covariance) and math.isfinite(variance):
            self._covariance = self._keep * self._covariance + covariance
            self._variance = self._keep * self._variance + variance
        self._heard = (0.0, 0.0)

    def state(self) -> tuple[float, float]:
        """Return the products."""
        return self._covariance, self._variance

    def restore(self, state: Any) -> None:
        """Continue from what :meth:`state` returned, or raise ValueError."""
        covariance, variance = (float(product) for product in state)
        if not math.isfinite(covariance) or not 0.0 <= variance < math.inf:
            raise ValueError("products that no deltas have")
        self._covariance, self._variance = covariance, variance
