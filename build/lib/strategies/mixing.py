"""Pulling the model towards a client's model instead of adding its delta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from strategies.aggregators import Aggregator, Bench
from strategies.batch import Batch, raw_weights
from strategies.update import Vector


@dataclass(frozen=True)
class ModelMixing:
    """s(tau) * (client model - model), the client model being its base model plus its delta."""

    keeps_models: ClassVar[bool] = True

    def aggregator(self, bench: Bench) -> Aggregator:
        """Return what carries the rule out."""
        return _Mixer(bench)


class _Mixer(Aggregator):
    def __init__(self, bench: Bench) -> None:
        self._parts, self._model_of = bench.parts, bench.model_of
        self._coefficient = np.float32(0.0)

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        (weight,) = raw_weights(self._parts, batch)
        self._coefficient = np.float32(weight)
        return (weight,)

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        base = self._model_of(batch.updates[0].base_version)
        np.subtract(base[columns], batch.params[columns], out=out)
        out += batch.rows[0, columns]
        out *= self._coefficient

    def commit(self) -> None:
        """Nothing to keep."""
