"""The ledger: what became of every update, version by version, in one hash chain.

A row is written in one transaction: the version, every update in it, every update refused since
the row before, and the chain's next link. SQLite with ``synchronous=FULL`` makes it durable before
`Ledger.append` returns. A primary key makes it impossible to write an update down twice.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fl_protocol.codes import Code, StorageFailed
from fl_protocol.receipts import GENESIS
from fl_server.durable.rows import Row

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    number INTEGER PRIMARY KEY, version INTEGER NOT NULL, content BLOB NOT NULL, link TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS updates (
    update_id TEXT PRIMARY KEY, row INTEGER NOT NULL REFERENCES rows (number),
    client TEXT NOT NULL, outcome TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoint (
    id INTEGER PRIMARY KEY CHECK (id = 1), row INTEGER NOT NULL REFERENCES rows (number),
    name TEXT NOT NULL, digest TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Checkpoint:
    """Where the engine's state after a row was saved; the digest is of that file."""

    row: int
    name: str
    digest: str


class Ledger:
    """Rows in an SQLite database; one writer, any number of readers.

    Parameters
    ----------
    connection : sqlite3.Connection
        In autocommit mode (``isolation_level=None``); see `fl_server.durable.folder`.

    Raises
    ------
    StorageFailed
        ``LEDGER_DAMAGED``: not a ledger. ``LEDGER_FAILED``: it cannot be used.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._database = connection
        with map_sqlite_errors():
            connection.executescript(_SCHEMA)
            newest = connection.execute(
                "SELECT number, link FROM rows ORDER BY number DESC LIMIT 1"
            ).fetchone()
        if newest is not None:
            _require_types(newest, int, str)
        self._next: int = 0 if newest is None else newest[0] + 1
        self._link: str = GENESIS if newest is None else newest[1]

    @property
    def next_number(self) -> int:
        """The number of the next row."""
        return self._next

    @property
    def link(self) -> str:
        """The chain's newest link: hex SHA-256 of the link before and the row."""
        return self._link

    def append(self, row: Row, checkpoint: Checkpoint | None = None) -> None:
        """Write a row, its updates and perhaps a checkpoint down, all or nothing, durably.

        Raises
        ------
        StorageFailed
            ``LEDGER_FAILED``: nothing was written; ``LEDGER_DAMAGED``: an update is there already.
        """
        content = row.encode()
        link = next_link(self._link, content)
        updates = [(u.update_id, row.number, u.client, u.outcome) for u in row.updates]
        with map_sqlite_errors(), self._transaction():
            self._database.execute(
                "INSERT INTO rows VALUES (?, ?, ?, ?)", (row.number, row.version, content, link)
            )
            self._database.executemany("INSERT INTO updates VALUES (?, ?, ?, ?)", updates)
            if checkpoint is not None:
                self._database.execute(
                    "INSERT OR REPLACE INTO checkpoint VALUES (1, ?, ?, ?)",
                    (checkpoint.row, checkpoint.name, checkpoint.digest),
                )
        self._next, self._link = row.number + 1, link

    def checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint to continue from.

        Raises
        ------
        StorageFailed
            ``LEDGER_DAMAGED``: it is of no row.
        """
        with map_sqlite_errors():
            found = self._database.execute("SELECT row, name, digest FROM checkpoint").fetchone()
        if found is None:
            return None
        _require_types(found, int, str, str)
        if not 0 <= found[0] < self._next:
            raise damaged(f"there is no row {found[0]}, of which it names a checkpoint")
        return Checkpoint(*found)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """Yield the rows from a number on.

        Raises
        ------
        StorageFailed
            ``LEDGER_DAMAGED``: a row is missing, altered, or does not fit the chain.
        """
        link, end = self._link_before(first), self._next
        with map_sqlite_errors():
            found = self._database.execute(
                "SELECT number, version, CAST(content AS BLOB), link FROM rows WHERE number >= ? "
                "ORDER BY number",
                (first,),
            )
            expected = first
            for number, version, content, stored in found:
                link = next_link(link, content or b"")
                if (number, stored) != (expected, link):
                    raise damaged(f"row {expected} does not fit the chain")
                row = _decoded(content, number)
                if (number, version) != (row.number, row.version):
                    raise damaged(f"row {expected} does not fit the chain")
                yield row
                expected += 1
        if expected < end:
            raise damaged(f"row {expected} is missing")

    def about(self) -> dict[str, Any] | None:
        """Return what the opening says of the run, None before there is one."""
        return next(self.rows()).about if self._next else None

    def check_integrity(self) -> None:
        """Check SQLite's pages, that the index names what the rows name, and for gaps.

        Raises
        ------
        StorageFailed
            ``LEDGER_DAMAGED``.
        """
        with map_sqlite_errors():
            said = self._database.execute("PRAGMA integrity_check").fetchone()[0]
            if said != "ok":
                raise damaged(f"SQLite says: {said}")
            indexed = set(
                self._database.execute("SELECT update_id, row, client, outcome FROM updates")
            )
        rows = list(self.rows())
        named = {
            (u.update_id, row.number, u.client, u.outcome) for row in rows for u in row.updates
        }
        if indexed != named:
            raise damaged("the index of updates does not fit the rows")
        for before, row in pairwise(rows):
            if row.version not in (before.version, before.version + 1):
                raise damaged(f"version {row.version} follows version {before.version}")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _link_before(self, number: int) -> str:
        if number == 0:
            return GENESIS
        with map_sqlite_errors():
            found = self._database.execute(
                "SELECT link FROM rows WHERE number = ?", (number - 1,)
            ).fetchone()
        if found is None:
            raise damaged(f"row {number - 1} is missing")
        _require_types(found, str)
        return str(found[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def next_link(link: str, content: bytes) -> str:
    """Return the chain's link after a row."""
    return hashlib.sha256(link.encode() + content).hexdigest()


def damaged(what: str, ledger: str = "The ledger") -> StorageFailed:
    """Return the error for a ledger that is not as it was written."""
    return StorageFailed(Code.LEDGER_DAMAGED, f"{ledger} is damaged: {what}.")


def _decoded(content: bytes, number: int) -> Row:
    try:
        return Row.decode(content)
    except (TypeError, ValueError) as error:
        raise damaged(f"row {number} cannot be read") from error


def _require_types(found: Sequence[object], *types: type) -> None:
    """Insist on types: SQLite promises those of a column only if its pages are whole."""
    if tuple(map(type, found)) != types:
        raise damaged("it holds something of another type")


@contextmanager
def map_sqlite_errors(ledger: str = "The ledger") -> Iterator[None]:
    """Turn what `sqlite3` raises of a ledger into ``LEDGER_DAMAGED`` or ``LEDGER_FAILED``."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise damaged(f"a row would be written twice ({error})", ledger) from error
    except sqlite3.OperationalError as error:
        # Without a code it is of a text that is none; of the statements here, SQLite finds fault
        # with none unless the tables are not those of a ledger.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR:
            raise damaged(str(error), ledger) from error
        raise StorageFailed(Code.LEDGER_FAILED, f"{ledger} could not be used: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise damaged(str(error), ledger) from error
    except UnicodeDecodeError as error:
        # SQLite's own sentence quotes what it stumbled over.
        raise damaged("its tables cannot be read", ledger) from error
