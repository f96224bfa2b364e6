"""SQLite whose process dies between any two statements, or whose disk is full.

SQLite's own durability is trusted, not tested: a transaction is whole or was never begun. What is
tested is what the ledger puts into one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from fl_sim.faults.chance import Chance
from fl_sim.faults.disk import SimulatedDisk


class SimulatedDatabase:
    """Stands for the `sqlite3.Connection` of one process; its database outlives the process.

    Parameters
    ----------
    database : sqlite3.Connection
        Holds what has been committed.
    disk : SimulatedDisk
        Whose machine it is.
    chance : Chance
        Decides what goes wrong.
    """

    def __init__(self, database: sqlite3.Connection, disk: SimulatedDisk, chance: Chance) -> None:
        if database.in_transaction:
            # What the process before had not committed.
            database.rollback()
        self._database, self._disk, self._chance = database, disk, chance

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return not self._disk.dead and self._database.in_transaction

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        """Execute a statement, or fail, or die before or after it."""
        self._disk.step()
        if statement == "COMMIT" and self._chance.strikes("full"):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        cursor = self._database.execute(statement, *parameters)
        self._disk.step()
        return cursor

    def executemany(self, statement: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        """Execute a statement for every row, or die before that."""
        self._disk.step()
        return self._database.executemany(statement, rows)

    def executescript(self, script: str) -> sqlite3.Cursor:
        """Execute several statements, or die before that."""
        self._disk.step()
        return self._database.executescript(script)

    def close(self) -> None:
        """Leave the database as it is."""
