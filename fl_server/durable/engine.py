"""An engine whose updates are journalled before they count and whose merges stand in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from fl_protocol.codes import Code, StorageFailed
from fl_protocol.ports import Disk
from fl_server.durable.account import Account, bytes_of
from fl_server.durable.checkpoint import decode_state, encode_state
from fl_server.durable.journal import Entry, Journal
from fl_server.durable.ledger import Checkpoint, Ledger, damaged
from fl_server.durable.rows import Recorded, Row
from strategies.batch import Pending
from strategies.engine import Engine
from strategies.errors import BadState, MergeDue
from strategies.update import Accepted, ClientUpdate, Merge, Rejected, Vector, digest_of

CHECKPOINT = "checkpoint-"
_logger = getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """Where a run is kept: its folder on a disk, the journal and the ledger in it.

    When the journal has grown by ``checkpoint_bytes``, and by four times a checkpoint's size, so
    that writing these costs less than the journal, a checkpoint is made and what it covers goes.
    """

    folder: Path
    disk: Disk
    journal: Journal
    ledger: Ledger
    checkpoint_bytes: int = 64 << 20


class DurableEngine:
    """Used like an `Engine`; a run begun with it continues bit for bit after any crash.

    Parameters
    ----------
    engine : Engine
        Fresh, with the run's initial model.
    saved : Saved
        Empty, or of a run to continue.
    about : dict
        What must not differ when the run is continued, as canonical JSON data by name; of
        several differences the first is named.

    Raises
    ------
    StorageFailed
        ``STATE_MISMATCH``: the saved run is another one. ``LEDGER_DAMAGED``: what is saved does
        not fit together, or gives another model. ``JOURNAL_DAMAGED``: an update is unreadable.
    """

    def __init__(self, engine: Engine, saved: Saved, about: dict[str, Any]) -> None:
        self._engine, self._saved = engine, saved
        self._journal, self._ledger = saved.journal, saved.ledger
        self._account = Account()
        self._due: tuple[Row, Merge] | None = None
        self._checkpoint_size = 0
        begun = self._ledger.about()
        if begun is None:
            self._begin(about)
        else:
            _require_same(begun, about)
            self._continue()
        self._covered = self._journal.size

    @property
    def version(self) -> int:
        """The newest version in the ledger."""
        return self._engine.version - (self._due is not None)

    @property
    def params(self) -> Vector:
        """The engine's model, shape (P,); that of `version` unless a merge waits for the ledger."""
        return self._engine.params

    @property
    def published(self) -> Vector:
        """The published model, shape (P,)."""
        return self._engine.published

    @property
    def num_received(self) -> int:
        """Updates received so far, whatever became of them."""
        return self._journal.next_number - 1

    @property
    def waiting(self) -> list[Pending]:
        """Updates accepted that are in no version yet."""
        return list(self._engine.waiting)

    @property
    def refused(self) -> tuple[Recorded, ...]:
        """Updates refused since the ledger's newest row."""
        return self._account.refused

    def lease(self) -> Vector:
        """Return a row to receive the next update into, as `Engine.lease`."""
        return self._engine.lease()

    def offer(self, update: ClientUpdate, now: float) -> Accepted | Rejected:
        """Journal an update, then offer it to the engine.

        Parameters
        ----------
        update : ClientUpdate
            Its id must be new.
        now : float
            Time in seconds on the caller's clock.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``; ``LEDGER_FAILED`` while a merge waits for the
            ledger. The update does not count and may be offered again.
        MergeDue
            The buffer is full; nothing was changed.
        """
        if self._due is not None:
            raise StorageFailed(Code.LEDGER_FAILED)
        if self._engine.full:
            raise MergeDue("The buffer is full: call merge() before offering the next update.")
        meta = {
            "id": update.update_id,
            "client": update.client,
            "base": update.base_version,
            "examples": update.num_examples,
            "at": repr(now),
        }
        number = self._journal.append(meta, [bytes_of(update.delta)])
        self._journal.sync()
        return self._take(update, number, now)

    def ready(self, now: float) -> bool:
        """Whether `merge` may be called."""
        return self._due is not None or self._engine.ready(now)

    def merge(self, now: float) -> Merge:
        """Merge the buffer and write the version down before anybody sees it.

        Raises
        ------
        StorageFailed
            ``LEDGER_FAILED``: it could not be written; call again when it can.
        """
        if self._due is None:
            self._due = self._merged(now)
        row, merge = self._due
        grown = self._journal.size - self._covered
        self._append(row, grown >= max(self._saved.checkpoint_bytes, 4 * self._checkpoint_size))
        self._due = None
        return merge

    def close(self, now: float) -> None:
        """Write down the refusals that no version followed, and a checkpoint, if that works."""
        if self._due is not None or not self.num_received:
            return
        row = self._account.closed(
            self._ledger.next_number, self._engine.version, self._engine.params, now
        )
        with suppress(StorageFailed):
            # A checkpoint does not hold what the ledger will want to know of waiting updates.
            self._append(row, checkpointed=not self._engine.pending)

    def _begin(self, about: dict[str, Any]) -> None:
        if self.num_received:
            raise StorageFailed(
                Code.STATE_MISMATCH, f"{self._saved.folder} has a journal but no ledger."
            )
        checkpoint = self._checkpointed(0)
        if checkpoint is None:
            raise StorageFailed(Code.LEDGER_FAILED, "The run's first model could not be saved.")
        version, digest = self._engine.version, digest_of(self._engine.params)
        self._ledger.append(Row(0, version, digest, 0.0, 0, (), about), checkpoint)

    def _continue(self) -> None:
        checkpoint = self._ledger.checkpoint()
        if checkpoint is None:
            raise damaged("it names no checkpoint")
        made, *rows = self._ledger.rows(checkpoint.row)
        self._restore(checkpoint)
        if made.model_digest != digest_of(self._engine.params):
            raise damaged(f"the checkpoint holds another model than version {made.version}")
        self._replay(made.entry, rows)
        self._remove_checkpoints_but(checkpoint.name)

    def _restore(self, checkpoint: Checkpoint) -> None:
        path = self._saved.folder / checkpoint.name
        try:
            data = self._saved.disk.read(path)
        except OSError as error:
            raise damaged(f"the checkpoint {path} cannot be read") from error
        if sha256(data).hexdigest() != checkpoint.digest:
            raise damaged(f"the checkpoint {path} was altered")
        try:
            self._engine.restore(decode_state(data))
        except BadState as error:
            raise StorageFailed(Code.STATE_MISMATCH, str(error)) from error

    def _replay(self, covered: int, rows: Sequence[Row]) -> None:
        """Do again what was done since a checkpoint; the ledger says what must come out."""
        self._account.entry = covered
        entries = list(self._journal.entries(after=covered))
        if entries and entries[0].number != covered + 1:
            raise damaged(f"the journal begins behind update {covered + 1}")
        if self.num_received < max((row.entry for row in rows), default=covered):
            raise damaged("the journal ends before its newest version")
        for row in rows:
            self._offer_again(entries[self._account.entry - covered : row.entry - covered])
            if self._row_again(row) != row:
                raise damaged(f"the journal gives another row {row.number}, version {row.version}")
        for entry in entries[self._account.entry - covered :]:
            self._offer_again([entry])
            self._merge_again(float(entry.meta["at"]))

    def _offer_again(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            meta, delta = entry.meta, np.frombuffer(self._journal.read(entry), "<f4")
            update = ClientUpdate(meta["client"], meta["base"], delta, meta["examples"], meta["id"])
            self._take(update, entry.number, float(meta["at"]))

    def _row_again(self, row: Row) -> Row:
        if row.version == self._engine.version:
            return self._account.closed(row.number, row.version, self._engine.params, row.at)
        if not self._engine.ready(row.at):
            raise damaged(f"the journal does not give version {row.version}")
        return self._merged(row.at, row.number)[0]

    def _merge_again(self, now: float) -> None:
        """Write down a merge that the crash came before."""
        if self._engine.ready(now):
            self._ledger.append(self._merged(now)[0])

    def _take(self, update: ClientUpdate, number: int, now: float) -> Accepted | Rejected:
        staleness = max(0, self._engine.version - update.base_version)
        answer = self._engine.offer(update, now)
        self._account.enter(update, number, staleness, answer)
        return answer

    def _merged(self, now: float, number: int | None = None) -> tuple[Row, Merge]:
        merge = self._engine.merge(now)
        number = self._ledger.next_number if number is None else number
        return self._account.merged(number, merge, now), merge

    def _append(self, row: Row, checkpointed: bool) -> None:
        checkpoint = self._checkpointed(row.number) if checkpointed else None
        self._ledger.append(row, checkpoint)
        if checkpoint is not None:
            self._journal.retire(row.entry)
            self._covered = self._journal.size
            self._remove_checkpoints_but(checkpoint.name)

    def _checkpointed(self, row: int) -> Checkpoint | None:
        try:
            return self._write_checkpoint(row)
        except OSError as error:
            # The journal still holds everything; the next merge tries again.
            _logger.warning("No checkpoint could be written: %s", error)
            return None

    def _write_checkpoint(self, row: int) -> Checkpoint:
        data = encode_state(self._engine.state())
        self._checkpoint_size = len(data)
        name = f"{CHECKPOINT}{row:012d}.npz"
        self._saved.disk.write_atomic(self._saved.folder / name, data)
        return Checkpoint(row, name, sha256(data).hexdigest())

    def _remove_checkpoints_but(self, name: str) -> None:
        folder, disk = self._saved.folder, self._saved.disk
        with suppress(OSError):
            for other in disk.list(folder):
                if other.startswith(CHECKPOINT) and other != name:
                    disk.remove(folder / other)


def _require_same(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in {**wanted, **saved}:
        if saved.get(name) != wanted.get(name):
            raise StorageFailed(
                Code.STATE_MISMATCH,
                f"The saved run has another {name}: {saved.get(name)!r}, not {wanted.get(name)!r}.",
            )
