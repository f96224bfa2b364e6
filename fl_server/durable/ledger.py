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

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, StorageFailed
from fl_protocol.receipts import GENESIS

_MAX_ROW_BYTES = 64 << 20
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
class Recorded:
    """What became of one update.

    Attributes
    ----------
    update_id, client : str
        Which, and whose.
    entry : int
        Its number in the journal.
    base_version, num_examples, staleness : int
        What it claimed, and how many versions it lagged behind when it came.
    outcome : str
        "accepted" or the code of its refusal.
    weight : float
        Its weight in the merge, 0 if it was refused.
    digest : str
        Hex SHA-256 of its float32 bytes.
    """

    update_id: str
    client: str
    entry: int
    base_version: int
    num_examples: int
    staleness: int
    outcome: str
    weight: float
    digest: str

    def members(self) -> list[Any]:
        """Return it as canonical JSON data; the weight is the shortest decimal that is exact."""
        return [
            self.update_id,
            self.client,
            self.entry,
            self.base_version,
            self.num_examples,
            self.staleness,
            self.outcome,
            repr(self.weight),
            self.digest,
        ]

    @classmethod
    def from_members(cls, members: Sequence[Any]) -> Recorded:
        """Read `members` again."""
        update_id, client, entry, base, examples, staleness, outcome, weight, digest = members
        return cls(
            update_id, client, entry, base, examples, staleness, outcome, float(weight), digest
        )


@dataclass(frozen=True)
class Row:
    """One link of the chain.

    Attributes
    ----------
    number : int
        Counts from 0, the opening of the run.
    version : int
        The version it made; that of the row before for a row of refusals only.
    model_digest : str
        Hex SHA-256 of that version's float32 bytes.
    at : float
        Seconds on the run's clock.
    entry : int
        The journal's newest entry at that time.
    updates : tuple of Recorded
        Those merged, in the order in which they came, and those refused.
    about : dict
        What the opening says of the run; empty in other rows.
    """

    number: int
    version: int
    model_digest: str
    at: float
    entry: int
    updates: tuple[Recorded, ...]
    about: dict[str, Any]

    def encode(self) -> bytes:
        """Return the bytes that the chain covers."""
        return canonical.encode(
            {
                "number": self.number,
                "version": self.version,
                "model_digest": self.model_digest,
                "at": repr(self.at),
                "entry": self.entry,
                "updates": [update.members() for update in self.updates],
                "about": self.about,
            }
        )

    @classmethod
    def decode(cls, content: bytes) -> Row:
        """Read what `encode` wrote; raises ValueError, KeyError or TypeError."""
        members = canonical.decode_object(content, _MAX_ROW_BYTES)
        return cls(
            members["number"],
            members["version"],
            members["model_digest"],
            float(members["at"]),
            members["entry"],
            tuple(map(Recorded.from_members, members["updates"])),
            members["about"],
        )


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
        with _typed():
            connection.executescript(_SCHEMA)
            newest = connection.execute(
                "SELECT number, link FROM rows ORDER BY number DESC LIMIT 1"
            ).fetchone()
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
        with _typed(), self._transaction():
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
        """Return the checkpoint to continue from."""
        with _typed():
            found = self._database.execute("SELECT row, name, digest FROM checkpoint").fetchone()
        return None if found is None else Checkpoint(*found)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """Yield the rows from a number on.

        Raises
        ------
        StorageFailed
            ``LEDGER_DAMAGED``: a row is missing, altered, or does not fit the chain.
        """
        link = self._link_before(first)
        with _typed():
            found = self._database.execute(
                "SELECT number, version, CAST(content AS BLOB), link FROM rows WHERE number >= ? "
                "ORDER BY number",
                (first,),
            )
            for expected, (number, version, content, stored) in enumerate(found, first):
                link = next_link(link, content)
                row = _decoded(content, number)
                if (number, number, version, link) != (expected, row.number, row.version, stored):
                    raise damaged(f"row {expected} does not fit the chain")
                yield row

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
        with _typed():
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
        with _typed():
            found = self._database.execute(
                "SELECT link FROM rows WHERE number = ?", (number - 1,)
            ).fetchone()
        if found is None:
            raise damaged(f"row {number - 1} is missing")
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


def damaged(what: str) -> StorageFailed:
    """Return the error for a ledger that is not as it was written."""
    return StorageFailed(Code.LEDGER_DAMAGED, f"The ledger is damaged: {what}.")


def _decoded(content: bytes, number: int) -> Row:
    try:
        return Row.decode(content)
    except (CanonicalError, KeyError, TypeError, ValueError) as error:
        raise damaged(f"row {number} cannot be read") from error


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise damaged(f"a row would be written twice ({error})") from error
    except sqlite3.OperationalError as error:
        raise StorageFailed(
            Code.LEDGER_FAILED, f"The ledger could not be used: {error}."
        ) from error
    except sqlite3.DatabaseError as error:
        raise damaged(str(error)) from error
