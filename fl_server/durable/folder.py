"""A run's folder on the local disk: its lock, journal and ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_protocol.ports import LocalDisk, SystemRng
from fl_protocol.storage import clear_interrupted
from fl_server.durable.engine import CHECKPOINT, Saved
from fl_server.durable.journal import Journal
from fl_server.durable.ledger import Ledger, map_sqlite_errors
from fl_server.durable.lock import locked

LEDGER = "ledger.sqlite"
JOURNAL = "journal"
_BUSY_SECONDS = 10.0


@contextmanager
def open_saved(folder: Path) -> Iterator[Saved]:
    """Open a run's folder for writing; another process cannot do so meanwhile.

    Parameters
    ----------
    folder : Path
        Created when missing, readable by its owner only.

    Raises
    ------
    StorageFailed
        ``STATE_IN_USE``, ``JOURNAL_DAMAGED``, ``JOURNAL_FAILED``, ``JOURNAL_FULL``,
        ``LEDGER_DAMAGED``, ``LEDGER_FAILED``.
    """
    with locked(folder):
        clear_interrupted(LocalDisk(), folder, CHECKPOINT)
        journal = Journal(folder / JOURNAL, LocalDisk(), SystemRng())
        ledger = Ledger(connect(folder / LEDGER))
        try:
            yield Saved(folder, LocalDisk(), journal, ledger)
        finally:
            journal.close()
            ledger.close()


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the ledger's database, durable at every commit.

    Raises
    ------
    StorageFailed
        ``LEDGER_FAILED``: it cannot be opened. ``LEDGER_DAMAGED``: it is no database.
    """
    mode = "ro" if read_only else "rwc"
    with map_sqlite_errors(str(path)):
        connection = sqlite3.connect(
            f"file:{path}?mode={mode}", uri=True, isolation_level=None, timeout=_BUSY_SECONDS
        )
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
    return connection
