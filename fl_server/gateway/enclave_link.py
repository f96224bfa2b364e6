"""The gateway's way to the enclave: attach through the launcher, again when that broke off.

Other gateways may be attached to the same enclave, and any of them may open a run. So what is
remembered here of the open run is looked at anew before anything is refused because of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from fl_protocol.codes import Code, GatewayUnavailable, RunRejected, error_for
from fl_protocol.header import body_size
from fl_protocol.ports import Chunk
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.signatures import Signed
from fl_server.gateway.call import Check
from fl_server.gateway.releases import Release, ReleaseCache
from fl_server.gateway.undisturbed import Undisturbed
from tee_sim.client import EnclaveClient, Opened
from tee_sim.control import LauncherClient

# A request that takes longer means a hung enclave, which is replaced.
_REQUEST_SECONDS = 60.0

_Result = TypeVar("_Result")


class EnclaveLink:
    """Requests to whichever enclave is running, one at a time.

    The enclave outlives a broken exchange and this process. Nothing is repeated here: after a
    failure the caller, who alone knows which enclave its update was sealed to, decides.

    Parameters
    ----------
    launcher : LauncherClient
        Attaches to it, and to its successor.
    """

    def __init__(self, launcher: LauncherClient) -> None:
        self._launcher = launcher
        self._client: EnclaveClient | None = None
        self._turn = asyncio.Lock()
        # A caller that hangs up must not tear an exchange apart: the half-read channel would have
        # to be given up, and there is no endless number of them.
        self._requests = Undisturbed()
        self._releases = ReleaseCache()
        # Bytes of the open run's model; None while no run is known to be open.
        self._model_bytes: int | None = None
        # Epoch and name of the run that was open when it was last looked.
        self._opening = (0, "")
        self._epoch, self._hung = 0, False

    @property
    def epoch(self) -> int:
        """Epoch of the enclave attached last."""
        return self._epoch

    async def attach(self) -> None:
        """Attach to an enclave unless one is attached; one that hangs is replaced.

        Raises
        ------
        GatewayUnavailable
            ENCLAVE_UNAVAILABLE: the launcher is gone or cannot start an enclave.
        """
        async with self._turn:
            try:
                await self._attached_in_time()
            except GatewayUnavailable:
                if not self._hung:
                    raise
                await self._attached_in_time()

    async def evidence(self, nonce: bytes) -> bytes:
        """Have the platform answer a challenge about the running enclave."""
        return await self._requests.run(self._evidence(nonce))

    async def open_run(
        self, header: pb.OpenRunHeader, body: Sequence[Chunk], still_admitted: Check
    ) -> pb.OpenRunReply:
        """Open a run from its parameters; raises RunRejected, or what the check raises."""

        async def request(enclave: EnclaveClient) -> Opened:
            await still_admitted()
            opened = await enclave.open_run(
                header.run_id,
                header.layout_json,
                header.recipe_json,
                body,
                header.version,
                join=header.join,
            )
            await self._look(enclave)
            return opened

        opened = await self._ask(request)
        return pb.OpenRunReply(
            version=opened.version, epoch=opened.epoch, opening=_record(opened.signed)
        )

    async def check_size(self, length: int) -> None:
        """Refuse a sealed update that is longer than one of the open run can be.

        Parameters
        ----------
        length : int
            Of its body, bytes.

        Raises
        ------
        RunRejected
            ``RUN_UNKNOWN``: no run is open.
        EnvelopeRejected
            ``TOO_LARGE``.
        """
        if not self._seems_attached or length > self._limit:
            await self._ask(self._look)
        if self._model_bytes is None:
            raise RunRejected(Code.RUN_UNKNOWN)
        if length > self._limit:
            raise error_for(
                Code.TOO_LARGE, f"an update of the open run has at most {self._limit} bytes, sealed"
            )

    @property
    def _seems_attached(self) -> bool:
        # In the middle of an exchange a client looks broken; whoever holds the turn will find out.
        return self._client is not None and (self._turn.locked() or not self._client.broken)

    @property
    def _limit(self) -> int:
        return 0 if self._model_bytes is None else body_size(self._model_bytes)[0]

    async def submit(
        self, header: pb.SubmitHeader, body: Sequence[Chunk], still_admitted: Check
    ) -> pb.SubmitReply:
        """Hand a sealed update in.

        The only request that its caller has to keep from being broken off.

        Raises
        ------
        EnvelopeRejected or UpdateRejected
            The enclave refused it.
        AsynclaveError
            What the check raises, which is made when it is the update's turn.
        """

        async def request(enclave: EnclaveClient) -> Signed:
            await still_admitted()
            return await enclave.submit(
                header.protected,
                header.wrap,
                header.tags,
                header.signature,
                header.membership,
                body,
            )

        signed = await self._exchange(request)
        return pb.SubmitReply(payload=signed.payload, signature=signed.signature)

    async def update_status(
        self, request: pb.UpdateStatusRequest, client_id: str
    ) -> pb.UpdateStatusReply:
        """Ask what became of a client's update; raises RunRejected."""
        status, receipt = await self._ask(
            lambda enclave: enclave.update_status(
                request.run_id, client_id, request.update_id, request.nonce
            )
        )
        return pb.UpdateStatusReply(
            status=_record(status), receipt=None if receipt is None else _record(receipt)
        )

    async def get_release(self, run_id: str, version: int) -> Release:
        """Fetch a signed release and its parameters; raises RunRejected."""
        kept = self._releases.get(run_id, version)
        # What was handed out is final: the run can only be opened again behind it.
        if kept is not None and self._seems_attached:
            return kept

        async def request(enclave: EnclaveClient) -> Release:
            signed, body = await enclave.get_release(run_id, version)
            header = pb.ReleaseHeader(
                payload=signed.payload, signature=signed.signature, length=len(body)
            )
            self._releases.put(run_id, version, (header, body))
            return header, body

        return await self._ask(request)

    async def get_records(self, from_seq: int) -> pb.RecordsReply:
        """Fetch a piece of the enclave's chain."""
        found = await self._ask(lambda enclave: enclave.get_records(from_seq))
        return pb.RecordsReply(records=map(_record, found.records), head=_record(found.head))

    async def close(self) -> None:
        """Let go of the enclave, which waits for the next to attach."""
        # A hung enclave leaves a request waiting, which would ask through what is closed here.
        await self._requests.cancel()
        if self._client is not None:
            self._client.close()
        self._launcher.close()

    async def _ask(self, request: Callable[[EnclaveClient], Awaitable[_Result]]) -> _Result:
        return await self._requests.run(self._exchange(request))

    async def _exchange(self, request: Callable[[EnclaveClient], Awaitable[_Result]]) -> _Result:
        async with self._turn, self._in_time():
            return await request(await self._attached())

    async def _evidence(self, nonce: bytes) -> bytes:
        async with self._turn, self._in_time():
            await self._attached()
            return await self._launcher.evidence(nonce)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                yield
        except TimeoutError:
            self._hung = True
            raise GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE) from None

    async def _attached_in_time(self) -> None:
        async with self._in_time():
            await self._attached()

    async def _attached(self) -> EnclaveClient:
        # Only to be called in turn: a client in the middle of an exchange looks broken.
        if self._client is None or self._client.broken:
            if self._client is not None:
                self._client.close()
            attachment = await self._launcher.attach(replace=self._epoch if self._hung else 0)
            self._client, self._hung = attachment.client, False
            self._epoch = attachment.epoch
            await self._look(self._client)
        return self._client

    async def _look(self, enclave: EnclaveClient) -> None:
        status = await enclave.status()
        opening = (status["epoch"], status["run_id"])
        if opening != self._opening:
            self._releases.clear()
        self._opening = opening
        self._model_bytes = status["model_bytes"] or None


def _record(signed: Signed) -> pb.SignedRecord:
    return pb.SignedRecord(payload=signed.payload, signature=signed.signature)
