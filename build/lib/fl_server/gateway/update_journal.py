"""Sealed updates on disk, from their arrival until the enclave has answered.

::

    entry  = {client, epoch, header, trace, update} with the body SubmitHeader (``header`` bytes of
             it) || segments
    answer = {answered: number of an entry}

What is on disk is what came over the wire: metadata, and ciphertext that only the enclave opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fl_protocol.codes import StorageFailed
from fl_protocol.header import Header
from fl_protocol.ports import Chunk
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.durable.group_commit import GroupCommit
from fl_server.durable.journal import Entry, Journal


@dataclass(eq=False)
class Kept:
    """An update that is on disk, or about to be.

    Attributes
    ----------
    number : int
        Of its entry; no more than that until the entry is written.
    """

    number: int


@dataclass(frozen=True)
class LeftOver:
    """An update that an earlier process of the gateway had kept and not answered.

    Attributes
    ----------
    client_id, update_id, trace_id : str
        What its header says.
    epoch : int
        Of the enclave it was sealed to.
    """

    kept: Kept
    client_id: str
    update_id: str
    trace_id: str
    epoch: int
    entry: Entry


class UpdateJournal:
    """Keeps updates that are not answered; segments without any are removed.

    Parameters
    ----------
    journal : Journal
        Used by nobody else.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal, self._commit = journal, GroupCommit(journal)
        unanswered: dict[int, Entry] = {}
        for entry in journal.entries():
            if "answered" in entry.meta:
                unanswered.pop(entry.meta["answered"], None)
            else:
                unanswered[entry.number] = entry
        self.left_over = tuple(map(_left_over, unanswered.values()))
        self._open = {left.kept for left in self.left_over}
        self._retire()

    def read(self, left: LeftOver) -> tuple[pb.SubmitHeader, list[Chunk]]:
        """Return the header and the body of an update; raises StorageFailed."""
        content = memoryview(self._journal.read(left.entry))
        length = left.entry.meta["header"]
        return pb.SubmitHeader.FromString(bytes(content[:length])), [content[length:]]

    async def keep(self, envelope: pb.SubmitHeader, header: Header, body: Sequence[Chunk]) -> Kept:
        """Return when an update will survive a loss of power.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: it is not kept.
        """
        encoded = envelope.SerializeToString()
        meta = {
            "client": header.client_id,
            "epoch": header.epoch,
            "header": len(encoded),
            "trace": header.trace_id,
            "update": header.update_id,
        }
        kept = Kept(self._commit.last + 1)
        self._open.add(kept)
        try:
            kept.number = await self._commit.append(meta, [encoded, *body])
        except StorageFailed:
            self._open.discard(kept)
            raise
        return kept

    def accepted(self, kept: Kept) -> None:
        """Note that the enclave took an update in.

        The note may be lost: handed in again, the update gets its first receipt.
        """
        self._commit.note({"answered": kept.number})
        self._close(kept)

    async def refused(self, kept: Kept) -> None:
        """Return when it is on disk that an update was refused, or dropped.

        Handed in again it might be accepted, though its client was told that it was not.
        """
        answer = {"answered": kept.number}
        try:
            await self._commit.append(answer)
        except StorageFailed:
            self._commit.note(answer)
        self._close(kept)

    async def close(self) -> None:
        """Write what was noted and close the journal."""
        await self._commit.close()
        self._journal.close()

    def _close(self, kept: Kept) -> None:
        self._open.discard(kept)
        self._retire()

    def _retire(self) -> None:
        first = min((kept.number for kept in self._open), default=self._commit.last + 1)
        self._commit.retire(first - 1)


def _left_over(entry: Entry) -> LeftOver:
    meta = entry.meta
    return LeftOver(
        Kept(entry.number), meta["client"], meta["update"], meta["trace"], meta["epoch"], entry
    )
