"""Everyone's last word at every upload: the mean of latest deltas, or of latest models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from strategies.aggregators import Aggregator, Arrays, Bench, Shapes
from strategies.batch import Batch
from strategies.errors import BadOption
from strategies.update import Vector


@dataclass(frozen=True)
class LatestDeltas:
    """The mean of the latest deltas of all clients; needs cached deltas."""

    keeps_models: ClassVar[bool] = False

    def aggregator(self, bench: Bench) -> Aggregator:
        """Return what carries the rule out."""
        return _DeltaMean(bench)


@dataclass(frozen=True)
class LatestModels:
    """The mean of the latest models of all clients minus the model; needs cached deltas."""

    keeps_models: ClassVar[bool] = True

    def aggregator(self, bench: Bench) -> Aggregator:
        """Return what carries the rule out."""
        return _ModelMean(bench)


class _DeltaMean(Aggregator):
    def __init__(self, bench: Bench) -> None:
        if bench.cache is None:
            raise BadOption("A mean of latest updates needs cached deltas.")
        self._volume, self._cache = bench.parts.volume, bench.cache

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        update = batch.updates[0]
        volume = self._volume.weight(update.num_examples)
        self._cache.plan([(update.client, volume)], batch.departed, None)
        return (self._cache.used(update.client) / self._cache.weight,)

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        client = batch.updates[0].client
        self._cache.exchange(client, columns, batch.rows[0, columns], out, scratch)
        self._cache.mean(columns, out, with_uploads=True)

    def commit(self) -> None:
        self._cache.commit()


class _ModelMean(_DeltaMean):
    """Models are cached as differences from the first one: small numbers, small errors."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._origin, self._model_of = bench.origin, bench.model_of

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        model = batch.rows[0, columns]
        model += self._model_of(batch.updates[0].base_version)[columns]
        model -= self._origin[columns]
        super().direction(batch, columns, out, scratch)
        out += self._origin[columns]
        out -= batch.params[columns]

    def state(self) -> tuple[Any, Arrays]:
        return None, {"origin": self._origin.copy()}

    def shapes(self, meta: Any, num_params: int) -> Shapes:
        return {"origin": (num_params,)}

    def restore(self, meta: Any, arrays: Arrays) -> None:
        self._origin = arrays["origin"].astype(np.float32)
