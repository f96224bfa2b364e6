"""Many coroutines, one journal: whoever waits at the same time shares one sync."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fl_protocol.codes import AsynclaveError, error_for
from fl_protocol.ports import Chunk
from fl_server.durable.journal import Journal


@dataclass(frozen=True)
class _Waiting:
    meta: dict[str, Any]
    body: Sequence[Chunk]
    number: asyncio.Future[int]


class GroupCommit:
    """Writes what is waiting as one batch, in a thread, while the next gathers.

    Parameters
    ----------
    journal : Journal
        Nobody else may use it until `close` has returned.

    Attributes
    ----------
    last : int
        The highest number known to be kept; what is appended from now on gets a higher one.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[_Waiting] = []
        # Notes that are not written, and those that are and may still be lost.
        self._notes: list[dict[str, Any]] = []
        self._unsynced: list[dict[str, Any]] = []
        self._done = 0
        self._wanted = False
        self._worker: asyncio.Task[None] | None = None
        self.last = journal.next_number - 1

    async def append(self, meta: dict[str, Any], body: Sequence[Chunk] = ()) -> int:
        """Return an entry's number once it will survive a loss of power.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: nothing of it is kept, nor of its batch.
        """
        waiting = _Waiting(meta, body, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake()
        return await waiting.number

    def note(self, meta: dict[str, Any]) -> None:
        """Append an entry without waiting for it; it is synced together with the next that waits.

        It may be lost with the power, not to a failure of the disk: then it is written again with
        the next batch.
        """
        self._notes.append(meta)
        self._wake()

    def retire(self, up_to: int) -> None:
        """Have segments removed that hold nothing above a number, at the end of the next batch."""
        self._done = up_to

    async def close(self) -> None:
        """Return when what was appended and noted is written, as far as the disk allows."""
        while self._worker is not None and not self._worker.done():
            await self._worker

    def _wake(self) -> None:
        self._wanted = True
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._wanted:
            self._wanted = False
            batch, self._waiting = self._waiting, []
            notes, self._notes = self._notes, []
            try:
                numbers = await asyncio.to_thread(self._write, batch, notes)
            except Exception as error:
                # A failure takes along everything since the last sync.
                self._notes[:0] = self._unsynced + notes
                self._unsynced = []
                _fail(batch, error)
                continue
            self._unsynced = [] if batch else self._unsynced + notes
            self.last = max(self.last, *numbers) if numbers else self.last
            for waiting, number in zip(batch, numbers, strict=True):
                if not waiting.number.done():
                    waiting.number.set_result(number)

    def _write(self, batch: Sequence[_Waiting], notes: Sequence[dict[str, Any]]) -> list[int]:
        for meta in notes:
            self._journal.append(meta)
        numbers = [self._journal.append(waiting.meta, waiting.body) for waiting in batch]
        if batch:
            self._journal.sync()
        self._journal.retire(self._done)
        return numbers


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.number.done():
            # Each gets its own: an exception collects the traces of all who raise it.
            again = (
                error_for(error.code, error.sentence)
                if isinstance(error, AsynclaveError)
                else error
            )
            waiting.number.set_exception(again)
