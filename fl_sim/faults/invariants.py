"""What must hold of a world after every step; the numbers are those of `docs/chaos.md`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fl_protocol.receipts import ACCEPTED, GENESIS
from fl_server.durable.ledger import next_link
from fl_server.durable.rows import Recorded, Row
from fl_sim.faults.chance import Violation
from strategies.engine import Engine
from strategies.update import Accepted, ClientUpdate, Vector


class Shadow:
    """A second engine that is fed from the ledger alone, and must come to the same models.

    Parameters
    ----------
    database : sqlite3.Connection
        The ledger's, as it is on disk.
    engine : Engine
        Fresh, of the run's recipe and limits.
    deltas : dict of str to ndarray
        Every update ever made, by the hex SHA-256 of its bytes.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        engine: Engine,
        deltas: Mapping[str, Vector],
    ) -> None:
        self._database, self._engine, self._deltas = database, engine, deltas
        self._link, self._next, self._entry = GENESIS, 0, 0
        self._held: list[Recorded] = []
        self._owners: set[tuple[str, int]] = set()
        self.outcomes: dict[str, str] = {}
        self.digests: dict[int, str] = {}
        self.replayed = 0
        self._accepted: set[str] = set()

    @property
    def version(self) -> int:
        """The ledger's newest version."""
        return max(self.digests, default=-1)

    def follow(self) -> None:
        """Take in what the ledger has gained; raises Violation."""
        for row in self._rows():
            self._check_numbers(row)
            for update in row.updates:
                self._count(update)
            self._held += row.updates
            if row.version > self.version and row.number:
                self._merge(row)
            self.digests[row.version] = row.model_digest

    def _rows(self) -> Iterator[Row]:
        found = self._database.execute(
            "SELECT content, link FROM rows WHERE number >= ? ORDER BY number", (self._next,)
        )
        for content, link in found.fetchall():
            self._link = next_link(self._link, content)
            if self._link != link:
                raise Violation(f"I5: row {self._next} does not fit the hash chain")
            yield Row.decode(content)
            self._next += 1

    def _check_numbers(self, row: Row) -> None:
        if row.number != self._next:
            raise Violation(f"I5: row {self._next} is missing")
        if row.number and row.version not in (self.version, self.version + 1):
            raise Violation(f"I5: version {row.version} follows version {self.version}")

    def _count(self, update: Recorded) -> None:
        if update.update_id in self.outcomes:
            raise Violation(f"I2: {update.update_id} is written down twice")
        self.outcomes[update.update_id] = update.outcome
        if update.outcome != ACCEPTED:
            return
        if update.digest in self._accepted:
            raise Violation(f"I3: the update behind {update.update_id} is applied twice")
        if (update.client, update.base_version) in self._owners:
            raise Violation(f"I2: {update.client} counts twice from version {update.base_version}")
        if update.base_version not in self.digests:
            raise Violation(f"I7: version {update.base_version} was never made")
        self._accepted.add(update.digest)
        self._owners.add((update.client, update.base_version))

    def _merge(self, row: Row) -> None:
        """Do the version again: every update up to it, in the order of the journal."""
        held, self._held = sorted(self._held, key=lambda update: update.entry), []
        entries = [update.entry for update in held]
        if entries != list(range(self._entry + 1, row.entry + 1)):
            raise Violation(
                f"I1: of the updates up to {row.entry} only {entries} are accounted for"
            )
        self._entry = row.entry
        for update in held:
            self._offer(update)
        merge = self._engine.merge(row.at)
        if merge.digest != row.model_digest:
            raise Violation(f"I4: version {row.version} is not what its updates give")
        written = [update.weight for update in held if update.outcome == ACCEPTED]
        if written != list(merge.weights):
            raise Violation(f"I6: the weights of version {row.version} are not the recipe's")
        self.replayed += 1

    def _offer(self, update: Recorded) -> None:
        delta = self._deltas.get(update.digest)
        if delta is None:
            raise Violation(f"I3: nobody has made the update behind {update.update_id}")
        answer: Any = self._engine.offer(
            ClientUpdate(
                update.client, update.base_version, delta, update.num_examples, update.update_id
            ),
            float(update.entry),
        )
        outcome = ACCEPTED if isinstance(answer, Accepted) else answer.code.value
        if outcome != update.outcome:
            raise Violation(
                f"I6: {update.update_id} was {update.outcome}, and by the rules it is {outcome}"
            )
        if outcome == ACCEPTED and answer.staleness != update.staleness:
            raise Violation(f"I6: the staleness of {update.update_id} is not that of its versions")


def check_acknowledged(acknowledged: set[str], recorded: set[str], waiting: set[str]) -> None:
    """I1: what was acknowledged is in a version, refused by name, or waits."""
    lost = acknowledged - recorded - waiting
    if lost:
        raise Violation(f"I1: acknowledged and gone: {', '.join(sorted(lost)[:5])}")


def check_served(version: int, digest: str, shadow: Shadow) -> None:
    """I7: a version that is sent to a node is in the ledger, and is that very model."""
    if shadow.digests.get(version) != digest:
        raise Violation(f"I7: version {version} was sent out, and the ledger has another or none")


def check_fairness(said: float, counted: dict[int, int], nodes: list[int]) -> None:
    """I11: Jain's index is that of the accepted updates."""
    counts = np.array([counted.get(node, 0) for node in nodes], np.float64)
    total = np.square(counts).sum()
    index = float(counts.sum() ** 2 / (len(counts) * total)) if total else 1.0
    if abs(index - said) > 1e-9:
        raise Violation(f"I11: the index of fairness is {said}, of what was accepted {index}")
