"""From the updates of a merge to the next model and the published one, block by block."""

from __future__ import annotations

import numpy as np

from strategies.aggregators import Aggregator
from strategies.batch import Batch
from strategies.gain_tuner import tuner_for
from strategies.published import fold
from strategies.recipe import Parts
from strategies.roles import Roles
from strategies.update import Vector, frozen

# Columns per pass of a merge: the working set of a buffer of ten stays in a 4 MB cache, and
# the cost of a Python call disappears behind it. Fastest of 8 K to 1 M for 10 x 10 M floats.
COLUMNS = 65536


class ModelStep:
    """The server optimiser's step and the published mean, with what they remember.

    Parameters
    ----------
    parts : Parts
        The recipe's parts.
    params : Vector
        Initial model, shape ``(P,)``.
    roles : Roles
        What its columns hold.

    Attributes
    ----------
    moments : ndarray of float32, shape (..., P), or None
        What the server optimiser remembers.
    mean : Vector or None
        Running mean of the versions, if the recipe publishes one.
    tuner : GainTuner or None
        What tunes the gain, if the recipe's gain tunes itself.
    roles : Roles
        What the columns hold.
    """

    def __init__(self, parts: Parts, params: Vector, roles: Roles) -> None:
        self._parts = parts
        self.roles = roles
        self.moments = parts.server.initial(params.size)
        self.mean = params.copy() if parts.published else None
        self.tuner = tuner_for(parts, params)
        self._published: Vector | None = None
        self._scratch = np.empty((2, min(params.size, COLUMNS)), np.float32)

    def published(self, params: Vector) -> Vector:
        """Return the mean, as a snapshot that later merges do not change; else ``params``."""
        if self.mean is None:
            return params
        if self._published is None:
            self._published = frozen(self.mean.copy())
        return self._published

    def restore(self, moments: Vector | None, mean: Vector | None) -> None:
        """Continue from saved arrays, which are taken over."""
        self.moments, self.mean, self._published = moments, mean, None

    def apply(self, batch: Batch, aggregator: Aggregator, merges: int, merged: Vector) -> None:
        """Write the next model into ``merged`` and move the mean.

        Parameters
        ----------
        batch : Batch
            The updates, already weighed by the aggregator.
        aggregator : Aggregator
            Turns them into a direction.
        merges : int
            Merges so far, this one included.
        merged : Vector
            Room for the next model, shape ``(P,)``.
        """
        parts, server = self._parts, self._parts.server
        oldest = max(update.staleness for update in batch.updates)
        size = server.size(merges, oldest, self.moments)
        statistics_share = 0.0
        if parts.gain is not None:
            uploads = len(batch.updates), batch.round_uploads
            statistics_share = parts.gain.share_of_statistics(*uploads)
            share = parts.gain.share(*uploads)
            factor = 1.0 if self.tuner is None else self.tuner.factor
            # The least step is a share of the aggregate that stays stable, whatever the gain.
            size = size._replace(rate=size.rate * share * factor, ceiling=size.ceiling * factor)
        mean_rate = 0.0
        if parts.published is not None:
            mean_rate = parts.published.rate(merges, batch.clients, parts.uploads_per_merge)
        for start in range(0, merged.size, COLUMNS):
            columns = slice(start, min(start + COLUMNS, merged.size))
            width = columns.stop - start
            aggregate, scratch = self._scratch[0, :width], self._scratch[1, :width]
            statistics = self.roles.statistics_in(columns)
            if self.tuner is not None:
                self.tuner.hear(batch.rows[0, columns], columns, statistics)
            aggregator.direction(batch, columns, aggregate, scratch)
            params, moved = batch.params[columns], merged[columns]
            if statistics is not None:
                followed = statistics.follow(params, aggregate, statistics_share)
            moments = None if self.moments is None else self.moments[..., columns]
            server.step(params, aggregate, moments, moved, size)
            if statistics is not None:
                moved[statistics.places] = followed
            if self.mean is not None:
                fold(self.mean[columns], merged[columns], mean_rate, scratch)
        if self.tuner is not None:
            self.tuner.merged(merged, len(batch.updates), batch.round_uploads)
        self._published = None
