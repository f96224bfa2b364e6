"""The RPCs of the gateway: metadata is checked here, everything sealed passes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fl_protocol.codes import Code, EnvelopeRejected, RunRejected
from fl_protocol.envelope import Header
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.proto.gateway_pb2_grpc import GatewayServicer
from fl_protocol.submission import SubmitMessage
from fl_server.gateway.call import await_hang_up, current_call
from fl_server.gateway.enclave_link import EnclaveLink
from fl_server.gateway.issuer import Issuer
from fl_server.gateway.limits import LoadLimits, TransferSlots, read_body
from fl_server.gateway.submissions import Submissions

_CHUNK = 1 << 20


class GatewayService(GatewayServicer):
    """Implements ``asynclave.v1.Gateway``; `Gatekeeper` has admitted the caller already."""

    def __init__(
        self, issuer: Issuer, link: EnclaveLink, submissions: Submissions, limits: LoadLimits
    ) -> None:
        self._issuer, self._link, self._limits = issuer, link, limits
        self._submissions = submissions
        self._uploads, self._downloads = (
            TransferSlots(limits.max_uploads, limits.max_transfers_per_client) for _ in range(2)
        )

    async def Enrol(self, request: pb.EnrolRequest, context: Any) -> pb.EnrolReply:
        """Redeem a ticket for a membership and a refresh token."""
        reply = await asyncio.to_thread(self._issuer.enrol, request)
        current_call().prove(reply.client_id)
        return reply

    async def IssueToken(self, request: pb.TokenRequest, context: Any) -> pb.TokenReply:
        """Exchange a refresh token or an identity proof for an access token."""
        call = current_call()
        call.claim(request.client_id)
        reply = await asyncio.to_thread(self._issuer.issue, request)
        call.prove(request.client_id)
        return reply

    async def GetKeys(self, request: pb.KeysRequest, context: Any) -> pb.KeysReply:
        """Return the token-signing keys."""
        return pb.KeysReply(jwks_json=await asyncio.to_thread(self._issuer.jwks_json))

    async def GetEvidence(self, request: pb.EvidenceRequest, context: Any) -> pb.EvidenceReply:
        """Have the platform answer a challenge."""
        return pb.EvidenceReply(evidence=await self._link.evidence(request.nonce))

    async def OpenRun(
        self, requests: AsyncIterator[pb.OpenRunRequest], context: Any
    ) -> pb.OpenRunReply:
        """Relay a run's layout, recipe and initial parameters to the enclave."""
        header, call = await _first(requests), current_call()
        with self._uploads.take(call.client_id):
            body = await read_body(_chunks(requests), header.length, self._limits)
            return await self._link.open_run(header, body, call.still_admitted)

    async def SubmitUpdate(
        self, messages: AsyncIterator[SubmitMessage], context: Any
    ) -> pb.SubmitReply:
        """Relay a sealed update; its sender must be the token's bearer."""
        first = await anext(messages, None)
        if first is None:
            await await_hang_up()
        if first is None or first.header is None:
            raise EnvelopeRejected(Code.ENV_MALFORMED)
        envelope = first.header
        header = Header.decode(envelope.protected)
        call = current_call()
        call.follow(header.trace_id)
        if header.client_id != call.client_id:
            raise EnvelopeRejected(Code.ENV_IDENTITY)
        await self._link.check_size(header.ct_len)
        with self._uploads.take(call.client_id):
            body = await read_body(_segments(first, messages), header.ct_len, self._limits)
            return await self._submissions.submit(envelope, header, body, call.still_admitted)

    async def GetUpdateStatus(
        self, request: pb.UpdateStatusRequest, context: Any
    ) -> pb.UpdateStatusReply:
        """Tell a client what became of its update."""
        return await self._link.update_status(request, current_call().client_id)

    async def GetRelease(
        self, request: pb.GetReleaseRequest, context: Any
    ) -> AsyncIterator[pb.ReleaseChunk]:
        """Stream a signed release and its parameters."""
        with self._downloads.take(current_call().client_id):
            header, body = await self._link.get_release(request.run_id, request.version)
            yield pb.ReleaseChunk(header=header)
            view = memoryview(body)
            for start in range(0, len(view), _CHUNK):
                yield pb.ReleaseChunk(chunk=bytes(view[start : start + _CHUNK]))

    async def GetRecords(self, request: pb.GetRecordsRequest, context: Any) -> pb.RecordsReply:
        """Hand out a piece of the enclave's chain."""
        return await self._link.get_records(request.from_seq)


async def _first(requests: AsyncIterator[pb.OpenRunRequest]) -> pb.OpenRunHeader:
    async for request in requests:
        if request.WhichOneof("part") == "header":
            return request.header
        break
    else:
        await await_hang_up()
    raise RunRejected(Code.RUN_MANIFEST)


def _chunks(requests: AsyncIterator[pb.OpenRunRequest]) -> AsyncIterator[bytes]:
    return (request.chunk async for request in requests)


async def _segments(
    first: SubmitMessage, messages: AsyncIterator[SubmitMessage]
) -> AsyncIterator[memoryview]:
    if first.segment:
        yield first.segment
    async for message in messages:
        if message.header is not None:
            raise EnvelopeRejected(Code.ENV_MALFORMED)
        yield message.segment
