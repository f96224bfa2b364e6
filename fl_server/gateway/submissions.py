"""Sealed updates on their way into the enclave, kept on disk until it has answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fl_protocol.codes import SENTENCES, AsynclaveError, Code, StorageFailed
from fl_protocol.header import Header
from fl_protocol.ports import Chunk, Disk, Rng
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.durable.journal import Journal
from fl_server.durable.lock import locked
from fl_server.gateway.audit import AuditLog
from fl_server.gateway.call import Check, admit_anyone, begin_call
from fl_server.gateway.enclave_link import EnclaveLink
from fl_server.gateway.registry import Registry
from fl_server.gateway.shared_memory import Refusals
from fl_server.gateway.undisturbed import Undisturbed
from fl_server.gateway.update_journal import Kept, LeftOver, UpdateJournal

_METHOD = "SubmitUpdate"


class Submissions:
    """Hands updates to the enclave; what this process cannot finish, its successor does.

    Every answer is final, also that the enclave could not be reached: the caller has it, and
    decides what to do. So only the end of the process leaves an update unanswered.

    Parameters
    ----------
    link : EnclaveLink
        The way to the enclave.
    journal : UpdateJournal or None
        Where updates are kept meanwhile, if anywhere.
    registry : Registry
        Who was revoked since an earlier process kept their updates.
    refusals : Refusals or None
        What the gateways beside this one refused, if there are any: a client that gets no answer
        here tries again there.
    """

    def __init__(
        self,
        link: EnclaveLink,
        journal: UpdateJournal | None,
        registry: Registry,
        refusals: Refusals | None = None,
    ) -> None:
        self._link, self._journal = link, journal
        self._refusals, self._registry = refusals, registry
        self._under_way = Undisturbed()

    async def submit(
        self,
        envelope: pb.SubmitHeader,
        header: Header,
        body: Sequence[Chunk],
        still_admitted: Check,
    ) -> pb.SubmitReply:
        """Have the enclave take an update in, also if the caller hangs up meanwhile.

        Raises
        ------
        StorageFailed
            ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: the enclave has not seen the update.
        AsynclaveError
            As for `EnclaveLink.submit`.
        """
        if self._journal is None:
            work = self._link.submit(envelope, body, still_admitted)
        else:
            work = self._submit(self._journal, envelope, header, body, still_admitted)
        return await self._under_way.run(work)

    async def finish_left_over(self, audit: AuditLog) -> None:
        """Hand in what an earlier process of the gateway had begun, one line of audit each.

        Raises
        ------
        GatewayUnavailable
            ``ENCLAVE_UNAVAILABLE``: there is no enclave; nothing of the rest is lost.
        StorageFailed
            ``JOURNAL_DAMAGED`` or ``JOURNAL_FAILED``: an update cannot be read.
        """
        if self._journal is None:
            return
        for left in self._journal.left_over:
            begin_call(_METHOD, {}).follow(left.trace_id)
            code, detail = await self._finished(self._journal, left)
            audit.record(
                _METHOD,
                code,
                client=left.client_id,
                trace_id=left.trace_id,
                detail=f"update {left.update_id}: {detail}",
            )

    async def stop(self) -> None:
        """Let go of what is under way, which stays in the journal, and close that."""
        await self._under_way.cancel()
        if self._journal is not None:
            await self._journal.close()

    async def _submit(
        self,
        journal: UpdateJournal,
        envelope: pb.SubmitHeader,
        header: Header,
        body: Sequence[Chunk],
        still_admitted: Check,
    ) -> pb.SubmitReply:
        kept = await journal.keep(envelope, header, body)
        try:
            return await self._answered(journal, kept, envelope, body, still_admitted)
        except AsynclaveError:
            if self._refusals is not None:
                await asyncio.to_thread(self._refusals.note, header)
            raise

    async def _finished(self, journal: UpdateJournal, left: LeftOver) -> tuple[str, str]:
        await self._link.attach()
        if left.epoch != self._link.epoch:
            await journal.refused(left.kept)
            return Code.JOURNAL_EPOCH_GONE, SENTENCES[Code.JOURNAL_EPOCH_GONE]
        envelope, body = journal.read(left)
        if await self._is_refused(Header.decode(envelope.protected)):
            await journal.refused(left.kept)
            return "OK", "dropped: another gateway has refused it since"
        if await self._is_revoked(left.client_id):
            await journal.refused(left.kept)
            return Code.TOKEN_REVOKED, SENTENCES[Code.TOKEN_REVOKED]
        try:
            await self._answered(journal, left.kept, envelope, body, admit_anyone)
        except AsynclaveError as refusal:
            return refusal.code, refusal.sentence
        return "OK", "taken up from the journal"

    async def _is_refused(self, header: Header) -> bool:
        if self._refusals is None:
            return False
        return await asyncio.to_thread(self._refusals.noted, header)

    async def _is_revoked(self, client_id: str) -> bool:
        revoked = await asyncio.to_thread(self._registry.revoked, client=client_id)
        return bool(revoked)

    async def _answered(
        self,
        journal: UpdateJournal,
        kept: Kept,
        envelope: pb.SubmitHeader,
        body: Sequence[Chunk],
        still_admitted: Check,
    ) -> pb.SubmitReply:
        try:
            reply = await self._link.submit(envelope, body, still_admitted)
        except AsynclaveError:
            await journal.refused(kept)
            raise
        journal.accepted(kept)
        return reply


@asynccontextmanager
async def open_submissions(
    link: EnclaveLink,
    journal_dir: str,
    disk: Disk,
    rng: Rng,
    registry: Registry,
    refusals: Refusals | None = None,
) -> AsyncIterator[Submissions]:
    """Open the journal in a folder, or none if that is empty.

    Raises
    ------
    StorageFailed
        ``STATE_IN_USE``: another gateway uses the folder. ``JOURNAL_DAMAGED``, ``JOURNAL_FAILED``.
    """
    if not journal_dir:
        yield Submissions(link, None, registry)
        return
    folder = Path(journal_dir)
    with locked(folder):
        journal = UpdateJournal(_opened(folder, disk, rng))
        submissions = Submissions(link, journal, registry, refusals)
        try:
            yield submissions
        finally:
            await submissions.stop()


def _opened(folder: Path, disk: Disk, rng: Rng) -> Journal:
    try:
        return Journal(folder, disk, rng)
    except StorageFailed as error:
        if error.code != Code.JOURNAL_DAMAGED:
            raise
        raise StorageFailed(
            error.code,
            f"The gateway's journal in {folder} is damaged. Move the folder away and start again: "
            "what nodes were told was accepted is in the enclave, the rest they deliver again.",
        ) from error
