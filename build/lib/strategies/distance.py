"""Weighing an update by how far the model has moved, compared with the update itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np

from strategies.aggregators import Aggregator, Bench
from strategies.batch import Batch
from strategies.errors import BadOption
from strategies.update import Vector

_BLOCK = 65536


@dataclass(frozen=True)
class DistanceWeight:
    """d / (gamma + offset) with gamma = |w - w_base| / |d| in L2 norms.

    Parameters
    ----------
    offset : float
        A fresh update counts 1 / offset.
    """

    offset: float

    keeps_models: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1e-6 <= self.offset <= 1e6:
            raise BadOption("The offset must lie between 1e-6 and 1e6.")

    def aggregator(self, bench: Bench) -> Aggregator:
        """Return what carries the rule out."""
        return _Weigher(self, bench)


class _Weigher(Aggregator):
    def __init__(self, rule: DistanceWeight, bench: Bench) -> None:
        self._rule, self._model_of = rule, bench.model_of
        self._coefficient = np.float32(0.0)

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        base = self._model_of(batch.updates[0].base_version)
        length = _norm(batch.rows[0])
        # A zero update moves nothing, whatever it weighs.
        gamma = _norm(batch.params, base) / length if length else 0.0
        weight = 1.0 / (gamma + self._rule.offset)
        self._coefficient = np.float32(weight)
        return (weight,)

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        np.multiply(batch.rows[0, columns], self._coefficient, out=out)

    def commit(self) -> None:
        """Nothing to keep."""


def _norm(one: Vector, other: Vector | None = None) -> float:
    total = 0.0
    for start in range(0, one.size, _BLOCK):
        columns = slice(start, start + _BLOCK)
        block = one[columns].astype(np.float64)
        if other is not None:
            block -= other[columns]
        total += float(np.dot(block, block))
    return sqrt(total)
