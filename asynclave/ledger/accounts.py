"""The accounts of a saved run: every update received, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fl_protocol.receipts import ACCEPTED
from fl_server.durable.copy import RunCopy
from fl_server.durable.rows import Recorded, Row
from strategies.update import digest_of

MERGED, WAITING = "merged", "waiting"


@dataclass(frozen=True)
class Line:
    """One update.

    Attributes
    ----------
    recorded : Recorded
        What the ledger says of it.
    version : int or None
        The version it was merged into.
    at : float
        When its row was written, in seconds on the run's clock.
    """

    recorded: Recorded
    version: int | None
    at: float

    def members(self) -> dict[str, Any]:
        """Return it as one flat object."""
        return {**vars(self.recorded), "version": self.version, "at": self.at}


@dataclass(frozen=True)
class Accounts:
    """A run's figures.

    Attributes
    ----------
    about : dict
        What the run's opening says of it.
    version : int
        The newest version.
    model_digest : str
        Hex SHA-256 of its float32 bytes.
    link : str
        The newest link of the ledger's hash chain.
    received : int
        Updates that were acknowledged: those in the journal, retired ones included.
    outcomes : dict of str to int
        ``merged``, ``waiting`` or the code of a refusal; they add up to `received`.
    journal_bytes : int
        On disk.
    torn_bytes : int
        At the end of the journal, never acknowledged; cut off when the run is continued.
    """

    about: dict[str, Any]
    version: int
    model_digest: str
    link: str
    received: int
    outcomes: dict[str, int]
    journal_bytes: int
    torn_bytes: int

    @property
    def lost(self) -> int:
        """Updates acknowledged of which nothing is known; 0, or the ledger is wrong."""
        return self.received - sum(self.outcomes.values())


def lines_of(rows: Iterator[Row]) -> Iterator[Line]:
    """Yield every update that the ledger names, in its order."""
    for row in rows:
        for update in row.updates:
            yield Line(update, row.version if update.outcome == ACCEPTED else None, row.at)


def accounts_of(run: RunCopy) -> Accounts:
    """Add a run up."""
    journal, ledger = run.saved.journal, run.saved.ledger
    outcomes: Counter[str] = Counter()
    for line in lines_of(ledger.rows()):
        outcomes[MERGED if line.version is not None else line.recorded.outcome] += 1
    outcomes.update(update.outcome for update in run.engine.refused)
    if waiting := len(run.engine.waiting):
        outcomes[WAITING] = waiting
    return Accounts(
        ledger.about() or {},
        run.engine.version,
        digest_of(run.engine.params),
        ledger.link,
        run.engine.num_received,
        dict(sorted(outcomes.items())),
        journal.size,
        journal.cut,
    )
