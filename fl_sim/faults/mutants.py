"""Bugs to plant, so that the harness can show that it would find them.

Each is a mistake that somebody could make in the durable path. None of this is imported by
production code; `planted` puts one in for as long as a block lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from fl_server.durable import frames
from fl_server.durable.account import Account
from fl_server.durable.engine import DurableEngine
from fl_server.durable.journal import Journal
from fl_server.durable.ledger import Checkpoint, Ledger
from fl_server.durable.rows import Row
from fl_server.strategy.dispatch import Fleet, Task
from strategies.ledger import Ledger as Contributions
from strategies.update import Merge


@dataclass(frozen=True)
class Mutant:
    """A bug: what is wrong, and what is replaced by what: owner, name, and the wrong function."""

    says: str
    patches: tuple[tuple[Any, str, Callable[..., Any]], ...]


def _sync_later(self: Journal) -> None:
    if not self._appended:
        return
    segment = self._segments[-1]
    segment.entries += self._appended
    segment.size = segment.synced = self._appended[-1].frame.end
    self._appended = []


_sync = Journal.sync


def _sync_errors_passed_over(self: Journal) -> None:
    log = self._log
    if log is None:
        return
    real = log.sync

    def careless() -> None:
        try:
            real()
        except OSError:
            return

    log.sync = careless  # type: ignore[method-assign]
    try:
        _sync(self)
    finally:
        if self._log is log:
            log.sync = real  # type: ignore[method-assign]


def _tail_left(self: Journal, segment: Any) -> None:
    segment.size = self._disk.size(segment.path)


def _damage_cut(read: Any, offset: int, size: int, salt: int) -> bool:
    return False


def _partial_frame_left(self: Journal) -> None:
    self.close()


_offer_again = DurableEngine._offer_again


def _last_entry_skipped(self: DurableEngine, entries: Sequence[Any]) -> None:
    if len(entries) != 1 or self._journal.next_number - 1 != entries[0].number:
        _offer_again(self, entries)


_finish = Fleet.finish


def _task_kept(self: Fleet, message_id: str) -> Task | None:
    task = self._tasks.get(message_id)
    done = self.__dict__.setdefault("_done", {})
    if task is not None:
        done[message_id] = task
    return _finish(self, message_id) or done.get(message_id)


def _never_a_duplicate(self: Contributions, update: Any, version: int, longest: int) -> None:
    return None


_append_row = Ledger.append


def _two_transactions(self: Ledger, row: Row, checkpoint: Checkpoint | None = None) -> None:
    if len(row.updates) < 2:
        _append_row(self, row, checkpoint)
        return
    refusals = replace(row, version=row.version - 1, updates=row.updates[:1])
    _append_row(self, refusals, None)
    _append_row(self, replace(row, number=row.number + 1, updates=row.updates[1:]), checkpoint)


_merge = DurableEngine.merge


def _shown_before_written(self: DurableEngine, now: float) -> Merge:
    if self._due is None:
        self._due = self._merged(now)
        row, merge = self._due
        unwritten = self.__dict__.setdefault("_unwritten", [])
        unwritten.append(row)
        self._due = None
        if len(unwritten) > 1:
            self._append(unwritten.pop(0), checkpointed=False)
        return merge
    return _merge(self, now)


_merged_row = Account.merged


def _refusals_dropped(self: Account, number: int, merge: Merge, now: float) -> Row:
    self._refused = []
    return _merged_row(self, number, merge, now)


def _checkpoint_first(self: DurableEngine, row: Row, checkpointed: bool) -> None:
    checkpoint = self._checkpointed(row.number) if checkpointed else None
    if checkpoint is not None:
        self._remove_checkpoints_but(checkpoint.name)
        self._journal.retire(row.entry)
    self._ledger.append(row, checkpoint)


def _read_in_one(read: Any, frame: frames.Frame) -> bool:
    content = read(frame.content_offset, frame.meta_length + frame.body_length)
    return frames.content_crc((content,)) == frame.crc


def _believed_length(data: bytes, offset: int, size: int, salt: int) -> Any:
    if len(data) < frames.FRAME_HEAD_BYTES or not any(data):
        return None
    _, kind, meta, body, synced, crc = frames._FRAME.unpack(data[: frames._FRAME.size])
    return frames.Frame(kind, offset, meta, body, synced, crc)


MUTANTS: dict[str, Mutant] = {
    "acknowledge-before-sync": Mutant(
        "the journal is never synced", ((Journal, "sync", _sync_later),)
    ),
    "sync-errors-passed-over": Mutant(
        "a failed sync counts as a sync", ((Journal, "sync", _sync_errors_passed_over),)
    ),
    "torn-tail-not-cut": Mutant(
        "what a torn write left stays in the journal", ((Journal, "_cut_tail", _tail_left),)
    ),
    "damage-taken-for-a-torn-write": Mutant(
        "a flipped bit has everything behind it cut off", ((frames, "was_synced", _damage_cut),)
    ),
    "partial-frame-left": Mutant(
        "what a failed write left stays in the journal",
        ((Journal, "_cut_back", _partial_frame_left),),
    ),
    "last-entry-skipped": Mutant(
        "a continued run leaves the newest update out",
        ((DurableEngine, "_offer_again", _last_entry_skipped),),
    ),
    "no-dedup": Mutant(
        "a reply that comes twice counts twice",
        ((Fleet, "finish", _task_kept), (Contributions, "screen", _never_a_duplicate)),
    ),
    "two-time-merge": Mutant(
        "a version is written in two transactions", ((Ledger, "append", _two_transactions),)
    ),
    "shown-before-written": Mutant(
        "a version is handed out before the ledger has it",
        ((DurableEngine, "merge", _shown_before_written),),
    ),
    "refusals-dropped": Mutant(
        "refused updates leave no record", ((Account, "merged", _refusals_dropped),)
    ),
    "checkpoint-before-ledger": Mutant(
        "what a checkpoint covers goes before the ledger names that checkpoint",
        ((DurableEngine, "_append", _checkpoint_first),),
    ),
    "unbounded-length": Mutant(
        "a length is believed that nothing vouches for",
        ((frames, "_decode", _believed_length), (frames, "_intact", _read_in_one)),
    ),
}


@contextmanager
def planted(name: str | None, mutants: Mapping[str, Mutant] = MUTANTS) -> Iterator[None]:
    """Plant one of the mutants for as long as the block lasts; none if there is no name."""
    with ExitStack() as patches:
        for owner, attribute, wrong in mutants[name].patches if name else ():
            patches.enter_context(mock.patch.object(owner, attribute, wrong))
        yield
