"""From the updates of a merge to the direction of the server's step.

An aggregator first weighs the batch (scalars only) and then works column by column, so that
every column block is read from memory once however many parts a recipe has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.batch import Batch, last_words, normalised_weights, raw_weights
from strategies.drift import DeltaCache
from strategies.fitted_correction import FittedCoefficient
from strategies.recipe import Parts
from strategies.robust.defence import Defence
from strategies.roles import Roles
from strategies.update import Vector
from strategies.weighted_sum import weighted_sum
from strategies.window import Buffer, Sliding

Arrays: TypeAlias = dict[str, npt.NDArray[np.float32]]
Shapes: TypeAlias = dict[str, tuple[int, ...]]

_FITTED_TO = 3.3
"""Windows of uploads that a fitted coefficient remembers, about."""


@dataclass(frozen=True)
class Bench:
    """What an aggregator may work with.

    Parameters
    ----------
    parts : Parts
        The recipe's parts.
    origin : Vector
        The model the run started from, shape ``(P,)``.
    cache : DeltaCache, optional
        The cached deltas when the recipe keeps them.
    model_of : callable
        Returns the model of a version that the engine still keeps.
    roles : Roles
        What the columns of the model hold.
    """

    parts: Parts
    origin: Vector
    cache: DeltaCache | None
    model_of: Callable[[int], Vector]
    roles: Roles


class Aggregator(Protocol):
    """One way to turn updates into a direction.

    One that carries something from merge to merge overrides the last three methods.
    """

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        """Fix this merge's coefficients and return those of the batch's updates."""
        ...

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        """Write the direction's columns into ``out``, updating own state there."""
        ...

    def commit(self) -> None:
        """End the merge."""
        ...

    def state(self) -> tuple[Any, Arrays]:
        """Return what is carried on, as JSON data and independent copies of arrays."""
        return None, {}

    def shapes(self, meta: Any, num_params: int) -> Shapes:
        """Return the shapes of the arrays that belong to saved JSON data, or raise ValueError."""
        return {}

    def restore(self, meta: Any, arrays: Arrays) -> None:
        """Continue from what :meth:`state` returned."""
        return None


class BufferMean(Aggregator):
    """Weighted sum over a disjoint buffer, of deltas or of innovations.

    With a cache: cached mean plus weighted innovations, then the cache takes the buffer's
    deltas (CA2FL, algorithm 1). With a filter, deltas are what it makes of them; the cache does
    not hear of updates that it leaves out. Running statistics are summed up without the cache.
    """

    def __init__(self, parts: Parts, cache: DeltaCache | None, roles: Roles) -> None:
        self._parts = parts
        self._cache = cache
        self._roles = roles
        self._defence = Defence(parts.robust) if parts.robust else None
        self._coefficients = np.empty(0, np.float32)
        self._order: list[int] = []
        self._folds = np.empty(0, np.float32)

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        """Weigh the buffer; with a cache, plan its exchange."""
        weights = normalised_weights(self._parts, batch)
        if self._defence is not None:
            weights = self._defence.weigh(batch, weights)
        self._coefficients = np.array(weights, np.float32)
        if self._cache is not None:
            self._plan_cache(self._cache, batch)
        return weights

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        """Write the weighted sum; rows become innovations when there is a cache."""
        rows = batch.rows[:, columns]
        if self._defence is not None:
            self._defence.apply(rows)
        sum_up = np.matmul if batch.rule is None else weighted_sum
        if self._cache is None:
            sum_up(self._coefficients, rows, out=out)
            return
        cache = self._cache
        statistics = self._roles.statistics_in(columns)
        if statistics is not None:
            plain = np.empty(statistics.places.size, np.float32)
            sum_up(self._coefficients, rows[:, statistics.places], out=plain)
        cache.settle(columns, scratch)
        cache.mean(columns, out, with_uploads=False)
        for index in self._order:
            client = batch.updates[index].client
            cache.innovation(client, columns, rows[index], out=scratch)
            if self._folds[index]:
                cache.replace(client, columns, rows[index])
            np.copyto(rows[index], scratch)
        sum_up(self._coefficients, rows, out=scratch)
        out += scratch
        folds = scratch if batch.rule is None else np.empty(scratch.size)
        sum_up(self._folds, rows, out=folds)
        cache.total[columns] += folds
        if statistics is not None:
            out[statistics.places] = plain

    def commit(self) -> None:
        """End the merge."""
        if self._cache is not None:
            self._cache.commit()

    def state(self) -> tuple[Any, Arrays]:
        """Return what the filter remembers."""
        return (None, {}) if self._defence is None else self._defence.state()

    def shapes(self, meta: Any, num_params: int) -> Shapes:
        """Return the shapes of what a filter saved."""
        return {} if self._defence is None else self._defence.shapes(meta, num_params)

    def restore(self, meta: Any, arrays: Arrays) -> None:
        """Continue with what a filter saved."""
        if self._defence is not None:
            self._defence.restore(meta, arrays)

    def _plan_cache(self, cache: DeltaCache, batch: Batch) -> None:
        # Of several updates of one client the one from the newest base is its last word; it
        # goes last, because all of them are compared with the word before this buffer.
        kept = [index for index, weight in enumerate(self._coefficients) if weight]
        self._order, last = last_words(batch.updates, kept)
        cache.plan(
            [
                (client, self._parts.volume.weight(batch.updates[index].num_examples))
                for client, index in last.items()
            ],
            batch.departed,
            batch.rule,
        )
        self._folds = np.zeros(len(batch.updates), np.float32)
        for client, index in last.items():
            self._folds[index] = cache.used(client)


class SlidingMean(Aggregator):
    """Weighted mean of the last K deltas or innovations at every upload.

    The sum is taken anew each time: a running sum would keep the rounding errors of every large
    update that has passed. Of running statistics it is the mean of the deltas, without the cache.
    """

    def __init__(
        self, parts: Parts, cache: DeltaCache | None, num_params: int, roles: Roles
    ) -> None:
        self._parts = parts
        self._cache = cache
        self._roles = roles
        self.size = parts.window.size
        self.ring = np.empty((self.size, num_params), np.float32)
        self.weights: list[float] = []
        self.slot = 0
        self._coefficients = np.empty(0, np.float32)
        fitted = parts.drift is not None and parts.drift.fitted
        self._fit = FittedCoefficient(_FITTED_TO * self.size) if fitted else None
        # How much of the cached delta was taken off each delta of the window.
        self._taken: list[float] = []

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        """Push the update's weight; with a cache, plan its exchange."""
        (weight,) = raw_weights(self._parts, batch)
        self.weights[self.slot : self.slot + 1] = [weight]
        # A window in which nothing weighs anything moves nothing.
        total = sum(self.weights) or 1.0
        self._coefficients = np.array([w / total for w in self.weights], np.float32)
        if self._fit is not None:
            self._taken[self.slot : self.slot + 1] = [self._fit.value]
        if self._cache is not None:
            update = batch.updates[0]
            volume = self._parts.volume.weight(update.num_examples)
            self._cache.plan([(update.client, volume)], batch.departed, None)
        return (weight / total,)

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        """Write the window's mean, plus as much of the cached mean as was taken off its deltas."""
        row, delta = self.ring[self.slot, columns], batch.rows[0, columns]
        window = self.ring[: len(self.weights), columns]
        if self._cache is None:
            np.copyto(row, delta)
            np.matmul(self._coefficients, window, out=out)
            return
        client = batch.updates[0].client
        self._cache.exchange(client, columns, delta, row, scratch)
        statistics = self._roles.statistics_in(columns)
        self._cache.mean(columns, scratch, with_uploads=True)
        if self._fit is not None:
            if not self._cache.is_first(client):
                self._fit.correct(row, delta, scratch, statistics)
            scratch *= self._coefficients @ np.array(self._taken, np.float32)
        if statistics is not None:
            row[statistics.places] = delta[statistics.places]
            scratch[statistics.places] = 0.0
        np.matmul(self._coefficients, window, out=out)
        out += scratch

    def commit(self) -> None:
        """Move on to the oldest slot."""
        self.slot = (self.slot + 1) % self.size
        if self._cache is not None:
            self._cache.commit()
        if self._fit is not None:
            self._fit.commit()

    def state(self) -> tuple[Any, Arrays]:
        """Return the window."""
        meta: dict[str, Any] = {"weights": self.weights, "slot": self.slot}
        if self._fit is not None:
            meta |= {"taken": self._taken, "fit": self._fit.state()}
        return meta, {"window": self.ring[: len(self.weights)].copy()}

    def shapes(self, meta: Any, num_params: int) -> Shapes:
        """Return the shape of a saved window."""
        if len(meta["weights"]) > self.size or not 0 <= meta["slot"] < self.size:
            raise ValueError("more updates than the window holds")
        if self._fit is not None and len(meta["taken"]) != len(meta["weights"]):
            raise ValueError("not one coefficient for each update of the window")
        if self._fit is not None and not all(0.0 <= taken <= 1.0 for taken in meta["taken"]):
            raise ValueError("a coefficient out of its bounds")
        return {"window": (len(meta["weights"]), num_params)}

    def restore(self, meta: Any, arrays: Arrays) -> None:
        """Continue with a saved window."""
        self.weights, self.slot = meta["weights"], meta["slot"]
        if self._fit is not None:
            self._taken = [float(taken) for taken in meta["taken"]]
            self._fit.restore(meta["fit"])
        self.ring[: len(self.weights)] = arrays["window"]


def aggregator_for(bench: Bench) -> Aggregator:
    """Return the aggregator that a recipe's parts ask for."""
    if bench.parts.upload is not None:
        return bench.parts.upload.aggregator(bench)
    match bench.parts.window:
        case Buffer():
            return BufferMean(bench.parts, bench.cache, bench.roles)
        case Sliding():
            return SlidingMean(bench.parts, bench.cache, bench.origin.size, bench.roles)
