"""What became of the updates since the ledger's newest row: the content of the next one."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np

from fl_protocol.receipts import ACCEPTED
from fl_server.durable.rows import Recorded, Row
from strategies.reject import Reject
from strategies.update import Accepted, ClientUpdate, Merge, Rejected, Vector, digest_of


class Account:
    """Collects outcomes between two rows of the ledger.

    Attributes
    ----------
    entry : int
        Journal number of the newest update whose outcome is known.
    """

    def __init__(self) -> None:
        self.entry = 0
        self._waiting: dict[str, Recorded] = {}
        self._refused: list[Recorded] = []

    @property
    def refused(self) -> tuple[Recorded, ...]:
        """Updates refused since the newest row."""
        return tuple(self._refused)

    def enter(
        self, update: ClientUpdate, entry: int, staleness: int, answer: Accepted | Rejected
    ) -> None:
        """Note the engine's answer to an update with a number in the journal."""
        self.entry = entry
        outcome = answer.code.value if isinstance(answer, Rejected) else ACCEPTED
        recorded = Recorded(
            update.update_id,
            update.client,
            entry,
            update.base_version,
            update.num_examples,
            staleness,
            outcome,
            0.0,
            sha256(bytes_of(update.delta)).hexdigest(),
        )
        if outcome == ACCEPTED:
            self._waiting[update.update_id] = recorded
            return
        if outcome == Reject.LEVERAGE_BOUND:
            # The engine discarded its buffer with the update that filled it.
            self._refused += [replace(r, outcome=outcome) for r in self._waiting.values()]
            self._waiting = {}
        self._refused.append(recorded)

    def merged(self, number: int, merge: Merge, now: float) -> Row:
        """Return row `number` for a merge and begin the account of the next."""
        weights = dict(zip(merge.consumed, merge.weights, strict=True))
        accepted = tuple(
            replace(self._waiting.pop(name), weight=float(weight))
            for name, weight in weights.items()
        )
        return self._row(number, merge.version, merge.digest, now, accepted)

    def closed(self, number: int, version: int, params: Vector, now: float) -> Row:
        """Return row `number` for the refusals that no version followed."""
        return self._row(number, version, digest_of(params), now, ())

    def _row(
        self, number: int, version: int, digest: str, now: float, accepted: tuple[Recorded, ...]
    ) -> Row:
        about: dict[str, Any] = {}
        refused, self._refused = tuple(self._refused), []
        return Row(number, version, digest, now, self.entry, accepted + refused, about)


def bytes_of(vector: Vector) -> memoryview:
    """Return a vector's little-endian float32 bytes, without a copy where that is possible."""
    return np.ascontiguousarray(vector, "<f4").data.cast("B")
