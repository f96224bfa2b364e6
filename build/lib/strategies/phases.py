"""A table of everyone's mean delta, filled in one phase and used in the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from strategies.aggregators import Aggregator, Arrays, Bench, Shapes
from strategies.batch import Batch
from strategies.update import Vector


@dataclass(frozen=True)
class Phases:
    """Wait until everyone is in the table, then step once for each client's next upload.

    A step is the mean over clients of each one's mean delta. Uploads of clients that had their
    step already fill the next table.
    """

    keeps_models: ClassVar[bool] = False

    def aggregator(self, bench: Bench) -> Aggregator:
        """Return what carries the rule out."""
        return _Ringleader(bench.origin.size)


class _Table:
    """Mean delta and number of deltas by client, with the sum of the means."""

    def __init__(self, num_params: int) -> None:
        self.total = np.zeros(num_params, np.float32)
        self.rows: dict[str, Vector] = {}
        self.counts: dict[str, int] = {}

    def admit(self, client: str) -> None:
        if client not in self.rows:
            self.rows[client] = np.zeros_like(self.total)
        self.counts[client] = self.counts.get(client, 0) + 1

    def add(self, client: str, columns: slice, delta: Vector, scratch: Vector) -> None:
        row = self.rows[client][columns]
        np.subtract(delta, row, out=scratch)
        scratch *= np.float32(1.0 / self.counts[client])
        row += scratch
        self.total[columns] += scratch

    def remove(self, client: str) -> None:
        if client in self.rows:
            self.total -= self.rows.pop(client)
            del self.counts[client]


class _Ringleader(Aggregator):
    def __init__(self, num_params: int) -> None:
        self._num_params = num_params
        self._now, self._next = _Table(num_params), _Table(num_params)
        self._due: set[str] = set()
        self._table = self._now
        self._step = np.float32(0.0)

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        self._forget(batch.departed)
        client = batch.updates[0].client
        served_already = bool(self._due) and client not in self._due
        self._table = self._next if served_already else self._now
        self._table.admit(client)
        complete = not self._due and len(self._now.rows) >= batch.clients
        share = 0.0
        if complete or client in self._due:
            self._due = (set(self._now.rows) if complete else self._due) - {client}
            share = 1.0 / len(self._now.rows)
        self._step = np.float32(share)
        return (share / self._table.counts[client],)

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        self._table.add(batch.updates[0].client, columns, batch.rows[0, columns], scratch)
        np.multiply(self._now.total[columns], self._step, out=out)

    def commit(self) -> None:
        if self._step and not self._due:
            self._turn()

    def state(self) -> tuple[Any, Arrays]:
        tables = {"now": self._now, "next": self._next}
        meta: dict[str, Any] = {name: list(t.counts.items()) for name, t in tables.items()}
        arrays: Arrays = {}
        for name, table in tables.items():
            rows = np.array([table.rows[client] for client in table.counts], np.float32)
            arrays[f"table_{name}"] = rows.reshape(len(table.rows), self._num_params)
            arrays[f"total_{name}"] = table.total.copy()
        return {**meta, "due": sorted(self._due)}, arrays

    def shapes(self, meta: Any, num_params: int) -> Shapes:
        if not set(meta["due"]) <= {client for client, _ in meta["now"]}:
            raise ValueError("a client is due that is not in the table")
        return {
            "table_now": (len(meta["now"]), num_params),
            "table_next": (len(meta["next"]), num_params),
            "total_now": (num_params,),
            "total_next": (num_params,),
        }

    def restore(self, meta: Any, arrays: Arrays) -> None:
        self._due = set(meta["due"])
        for name, table in (("now", self._now), ("next", self._next)):
            table.total = arrays[f"total_{name}"].copy()
            table.counts = {client: count for client, count in meta[name]}
            copies = arrays[f"table_{name}"].copy()
            table.rows = dict(zip(table.counts, copies, strict=True))

    def _forget(self, departed: tuple[str, ...]) -> None:
        was_due = bool(self._due)
        for client in departed:
            self._now.remove(client)
            self._next.remove(client)
            self._due.discard(client)
        if was_due and not self._due:
            self._turn()

    def _turn(self) -> None:
        self._now, self._next = self._next, _Table(self._num_params)
