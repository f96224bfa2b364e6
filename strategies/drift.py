"""Drift correction with cached deltas: everyone's last word, and what has just changed.

Wang et al., *Tackling the Data Heterogeneity in Asynchronous Federated Learning with Cached
Update Calibration* (CA2FL, ICLR 2024), algorithm 1: the server keeps the latest delta h_i of
each client; an upload D_i contributes its innovation r_i = D_i - h_i, and the mean of all h
stands in for the clients that are not in the buffer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from strategies.cached_rows import (
    CachedRows,
    CacheKind,
    ExactRows,
    Memory,
    Row,
    RowSpace,
    check_kind,
)
from strategies.errors import BadOption
from strategies.release import ReleaseRule
from strategies.rounded_rows import BFloat16Rows, SketchedRows
from strategies.update import Vector


@dataclass(frozen=True)
class CachedDeltas:
    """Keep the latest delta of each client.

    Parameters
    ----------
    max_age : float
        Uploads per client after which a silent client's delta leaves the mean. Slow clients
        must not be forgotten between two uploads: with lognormal speeds of sigma 1.2 the
        slowest of 100 uploads about every 40 rounds.
    max_clients : int, optional
        Bound on the cache, which takes ``max_clients`` rows; the longest silent leave.
    per_client : bool
        False counts ``max_age`` in uploads of all clients together.
    kind : {"float32", "bfloat16", "sketch", "disk"}
        How a row is kept: exact in 4 P bytes; rounded to 2 P or 0.56 P bytes; exact on disk.
    fitted : bool
        True takes only so much of a client's last delta off its next one as the deltas show to be
        worth it, see :mod:`strategies.fitted_correction`; sliding windows only.
    """

    max_age: float = 100.0
    max_clients: int | None = None
    per_client: bool = True
    kind: CacheKind = "float32"
    fitted: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.max_age <= 1e9:
            raise BadOption("max_age must be a positive number of uploads.")
        if self.max_clients is not None and (
            type(self.max_clients) is not int or self.max_clients < 1
        ):
            raise BadOption("max_clients must be an integer of at least 1.")
        check_kind(self.kind)

    def cache(
        self, num_params: int, disk: RowSpace | None, rule: ReleaseRule | None = None
    ) -> DeltaCache:
        """Return an empty cache.

        Parameters
        ----------
        num_params : int
            Length P of a delta.
        disk : RowSpace, optional
            Where rows of kind "disk" live.
        rule : ReleaseRule, optional
            In force, it keeps H in float64: rounding beside a delta of the largest norm that is
            let in would take the others out of it, behind whom a client is to hide.

        Raises
        ------
        BadOption
            The kind is "disk" and there is nowhere to put the rows.
        """
        exact = np.float32 if rule is None else np.float64
        return DeltaCache(self._rows(num_params, disk), np.zeros(num_params, exact))

    def _rows(self, num_params: int, disk: RowSpace | None) -> CachedRows:
        match self.kind:
            case "float32":
                return ExactRows(num_params, Memory())
            case "bfloat16":
                return BFloat16Rows(num_params)
            case "sketch":
                return SketchedRows(num_params)
            case "disk":
                if disk is None:
                    raise BadOption('cache = "disk" needs a place on disk: give one to the engine.')
                return ExactRows(num_params, disk)


@dataclass
class CachedDelta:
    """A client's latest delta.

    ``volume`` is its weight by data, ``used`` what it weighs in the sum after capping.
    """

    row: Row
    volume: float
    used: float


class DeltaCache:
    """The cached deltas and their weighted sum H, with P the sum of the weights in H.

    One merge gets room first (:meth:`reserve`), is planned (:meth:`plan`, scalars only) and then
    applied column by column: :meth:`settle`, then :meth:`innovation`, :meth:`replace` and
    :meth:`mean` in the order the aggregator asks for, which adds the innovations to ``total``;
    :meth:`commit` ends it.

    H is the sum of what the rows hold: where they round, :meth:`replace` adds the difference.

    Parameters
    ----------
    rows : CachedRows
        How the deltas are kept.
    total : ndarray, float32 or float64, shape (P,)
        H, all zeros.
    """

    def __init__(self, rows: CachedRows, total: Row) -> None:
        self.rows = rows
        self.entries: dict[str, CachedDelta] = {}
        self.total = total
        self.weight = 0.0
        self._reserved: dict[str, Row] = {}
        self._unused: list[Row] = []
        self._corrections: list[tuple[np.float32, Row]] = []
        self._fresh: set[str] = set()
        self._mean_weight = 0.0

    def reserve(self, clients: Iterable[str]) -> None:
        """Find room for the first deltas of clients, or fail before anything was changed."""
        for client in clients:
            if client not in self.entries and client not in self._reserved:
                self._reserved[client] = self.rows.new()

    def plan(
        self,
        uploads: Sequence[tuple[str, float]],
        departed: Collection[str],
        rule: ReleaseRule | None,
    ) -> None:
        """Fix what this merge does to the cache.

        Parameters
        ----------
        uploads : sequence of (client, volume)
            Clients whose delta is replaced, each once.
        departed : collection of str
            Clients to forget.
        rule : ReleaseRule, optional
            Bounds every client's share of the cached mean too.
        """
        self._corrections = []
        for client in departed:
            entry = self.entries.pop(client, None)
            if entry is not None:
                self._correct(entry, 0.0)
                self._unused.append(entry.row)
        for client, volume in uploads:
            if client in self.entries:
                self.entries[client].volume = volume
        if rule is None:
            for client, _ in uploads:
                if client in self.entries:
                    self._correct(self.entries[client], self.entries[client].volume)
        elif self.entries:
            volumes = np.array([entry.volume for entry in self.entries.values()])
            used = rule.evened(volumes).tolist()
            for entry, weight in zip(self.entries.values(), used, strict=True):
                self._correct(entry, weight)
        if not self.entries:
            # A rest of rounding errors must not pass for the weight of a client.
            self.weight = 0.0
        too_few = rule is not None and len(self.entries) < rule.k
        self._mean_weight = 0.0 if too_few else self.weight
        self._admit(uploads)

    def shares(
        self, uploads: Mapping[str, float], departed: Collection[str], rule: ReleaseRule
    ) -> dict[str, float]:
        """Return each client's share of the mean that :meth:`plan` would make; changes nothing.

        Parameters
        ----------
        uploads : Mapping
            Volume of each client whose delta is to be replaced.
        departed : collection of str
            Clients to forget.
        rule : ReleaseRule
            Bounds every client's share; a cache of fewer than its k clients has no mean.

        Returns
        -------
        dict of str to float
            Sums to 1, or is empty.
        """
        volumes = {
            client: uploads.get(client, entry.volume)
            for client, entry in self.entries.items()
            if client not in departed
        }
        if len(volumes) < rule.k:
            return {}
        even = rule.evened(np.array(list(volumes.values())))
        return dict(zip(volumes, (even / even.sum()).tolist(), strict=True))

    def settle(self, columns: slice, scratch: Vector) -> None:
        """Bring H up to date with departures and changed weights."""
        for change, row in self._corrections:
            np.multiply(self.rows.read(row, columns, scratch), change, out=scratch)
            self.total[columns] += scratch

    def mean(self, columns: slice, out: Vector, *, with_uploads: bool) -> None:
        """Write H / P, before or after this merge's uploads were folded in; 0 when empty."""
        weight = self.weight if with_uploads else self._mean_weight
        if weight > 0.0:
            np.multiply(self.total[columns], np.float32(1.0 / weight), out=out, casting="same_kind")
        else:
            out.fill(0.0)

    def innovation(self, client: str, columns: slice, delta: Vector, out: Vector) -> None:
        """Write r = D - h into ``out``; the first delta of a client is all news."""
        if client in self._fresh:
            np.copyto(out, delta)
        else:
            believed = self.rows.read(self.entries[client].row, columns, scratch=out)
            np.subtract(delta, believed, out=out)

    def replace(self, client: str, columns: slice, delta: Vector) -> None:
        """Set h <- D, and H to what the row now holds once the caller has added D - h."""
        entry = self.entries[client]
        errors = self.rows.write(entry.row, columns, delta)
        if errors is not None:
            errors *= np.float32(entry.used)
            self.total[columns] += errors

    def exchange(
        self, client: str, columns: slice, delta: Vector, innovation: Vector, scratch: Vector
    ) -> None:
        """Do all a single upload asks for: settle, write its innovation, set h and H."""
        self.settle(columns, scratch)
        self.innovation(client, columns, delta, out=innovation)
        self.replace(client, columns, delta)
        np.multiply(innovation, np.float32(self.used(client)), out=scratch)
        self.total[columns] += scratch

    def is_first(self, client: str) -> bool:
        """Say whether the delta that is being merged is a client's first."""
        return client in self._fresh

    def used(self, client: str) -> float:
        """Return the client's weight in H."""
        return self.entries[client].used

    def commit(self) -> None:
        """End the merge and let go of the rows it has made superfluous."""
        for row in (*self._unused, *self._reserved.values()):
            self.rows.free(row)
        self._unused, self._reserved = [], {}
        self._corrections = []
        self._fresh = set()

    def state(self) -> tuple[Any, dict[str, Row]]:
        """Return weights by client as JSON data, and copies of the rows as they are kept and H."""
        meta = {
            "entries": [[c, entry.volume, entry.used] for c, entry in self.entries.items()],
            "weight": self.weight,
        }
        dtype, shape = self.rows.form
        rows = np.empty((len(self.entries), *shape), dtype)
        for copy, entry in zip(rows, self.entries.values(), strict=True):
            copy[:] = entry.row
        return meta, {"cache": rows, "cache_total": self.total.copy()}

    def shapes(self, meta: Any) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays that belong to saved JSON data."""
        return {
            "cache": (len(meta["entries"]), *self.rows.form[1]),
            "cache_total": self.total.shape,
        }

    def restore(self, meta: Any, arrays: Mapping[str, Row]) -> None:
        """Continue from what :meth:`state` returned, or change nothing and raise."""
        weight = float(meta["weight"])
        weights = [(str(c), float(volume), float(used)) for c, volume, used in meta["entries"]]
        entries = {}
        for (client, volume, used), saved in zip(weights, arrays["cache"], strict=True):
            entries[client] = CachedDelta(self.rows.new(), volume, used)
            entries[client].row[:] = saved
        for entry in self.entries.values():
            self.rows.free(entry.row)
        self.entries, self.weight = entries, weight
        np.copyto(self.total, arrays["cache_total"])

    def _admit(self, uploads: Sequence[tuple[str, float]]) -> None:
        for client, volume in uploads:
            if client not in self.entries:
                self.entries[client] = CachedDelta(self._reserved.pop(client), volume, volume)
                self._fresh.add(client)
                self.weight += volume

    def _correct(self, entry: CachedDelta, used: float) -> None:
        if used != entry.used:
            self._corrections.append((np.float32(used - entry.used), entry.row))
            self.weight += used - entry.used
            entry.used = used
