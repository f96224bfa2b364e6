"""Drift correction with cached deltas: everyone's last word, and what has just changed.

Wang et al., *Tackling the Data Heterogeneity in Asynchronous Federated Learning with Cached
Update Calibration* (CA2FL, ICLR 2024), algorithm 1: the server keeps the latest delta h_i of
each client; an upload D_i contributes its innovation r_i = D_i - h_i, and the mean of all h
stands in for the clients that are not in the buffer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from strategies.errors import BadOption
from strategies.release import ReleaseRule
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
        Bound on the cache, which takes ``max_clients * P`` floats; the longest silent leave.
    per_client : bool
        False counts ``max_age`` in uploads of all clients together.
    """

    max_age: float = 100.0
    max_clients: int | None = None
    per_client: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.max_age <= 1e9:
            raise BadOption("max_age must be a positive number of uploads.")
        if self.max_clients is not None and (
            type(self.max_clients) is not int or self.max_clients < 1
        ):
            raise BadOption("max_clients must be an integer of at least 1.")


@dataclass
class CachedDelta:
    """A client's latest delta.

    ``volume`` is its weight by data, ``used`` what it weighs in the sum after capping.
    """

    row: Vector
    volume: float
    used: float


class DeltaCache:
    """The cached deltas and their weighted sum H, with P the sum of the weights in H.

    One merge is planned first (:meth:`plan`, scalars only) and then applied column by column:
    :meth:`settle`, then :meth:`innovation`, :meth:`replace` and :meth:`mean` in the order the
    aggregator asks for, which also adds to ``total``; :meth:`commit` ends it.

    Parameters
    ----------
    num_params : int
        Length of a delta.
    """

    def __init__(self, num_params: int) -> None:
        self.num_params = num_params
        self.entries: dict[str, CachedDelta] = {}
        self.total = np.zeros(num_params, np.float32)
        self.weight = 0.0
        self._corrections: list[tuple[np.float32, Vector]] = []
        self._fresh: set[str] = set()
        self._mean_weight = 0.0

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
        for client, volume in uploads:
            if client in self.entries:
                self.entries[client].volume = volume
        level = self._share_level(rule)
        if rule is None:
            for client, _ in uploads:
                if client in self.entries:
                    self._correct(self.entries[client], self.entries[client].volume)
        else:
            for entry in self.entries.values():
                self._correct(entry, min(entry.volume, level))
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
        capped = np.array(list(volumes.values()))
        np.minimum(capped, rule.level(capped), out=capped)
        return dict(zip(volumes, (capped / capped.sum()).tolist(), strict=True))

    def settle(self, columns: slice, scratch: Vector) -> None:
        """Bring H up to date with departures and changed weights."""
        for change, row in self._corrections:
            np.multiply(row[columns], change, out=scratch)
            self.total[columns] += scratch

    def mean(self, columns: slice, out: Vector, *, with_uploads: bool) -> None:
        """Write H / P, before or after this merge's uploads were folded in; 0 when empty."""
        weight = self.weight if with_uploads else self._mean_weight
        if weight > 0.0:
            np.multiply(self.total[columns], np.float32(1.0 / weight), out=out)
        else:
            out.fill(0.0)

    def innovation(self, client: str, columns: slice, delta: Vector, out: Vector) -> None:
        """Write r = D - h into ``out``; the first delta of a client is all news."""
        if client in self._fresh:
            np.copyto(out, delta)
        else:
            np.subtract(delta, self.entries[client].row[columns], out=out)

    def replace(self, client: str, columns: slice, delta: Vector) -> None:
        """Set h <- D."""
        self.entries[client].row[columns] = delta

    def exchange(
        self, client: str, columns: slice, delta: Vector, innovation: Vector, scratch: Vector
    ) -> None:
        """Do all a single upload asks for: settle, write its innovation, set h and H."""
        self.settle(columns, scratch)
        self.innovation(client, columns, delta, out=innovation)
        self.replace(client, columns, delta)
        np.multiply(innovation, np.float32(self.used(client)), out=scratch)
        self.total[columns] += scratch

    def used(self, client: str) -> float:
        """Return the client's weight in H."""
        return self.entries[client].used

    def commit(self) -> None:
        """End the merge."""
        self._corrections = []
        self._fresh = set()

    def _admit(self, uploads: Sequence[tuple[str, float]]) -> None:
        for client, volume in uploads:
            if client not in self.entries:
                row = np.empty(self.num_params, np.float32)
                self.entries[client] = CachedDelta(row, volume, volume)
                self._fresh.add(client)
                self.weight += volume

    def _correct(self, entry: CachedDelta, used: float) -> None:
        if used != entry.used:
            self._corrections.append((np.float32(used - entry.used), entry.row))
            self.weight += used - entry.used
            entry.used = used

    def _share_level(self, rule: ReleaseRule | None) -> float:
        if rule is None or not self.entries:
            return float("inf")
        return rule.level(np.array([entry.volume for entry in self.entries.values()]))
