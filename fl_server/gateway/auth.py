"""Admission: every call passes here before its handler runs, and leaves one audit line.

Order: method known -> room for the audit line -> refused tokens of the address -> token -> rate of
the address with that token -> proof of possession -> revocation -> rate of the client -> request ->
revocation. Every method is served as a stream of requests, because gRPC calls those handlers at
once: a caller whom the metadata does not admit is refused without its request being waited for, and
nobody can keep a call open by sending none. A caller can take a minute over a body or a download,
so revocation is looked up again when that moves on. Refusals leave as a gRPC status with the code
in the trailing metadata and a constant sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from fl_protocol.codes import (
    AsynclaveError,
    Code,
    ConfigInvalid,
    GatewayUnavailable,
    ProofRejected,
    TokenRejected,
    error_for,
)
from fl_protocol.submission import read_message
from fl_protocol.wire import CODE_METADATA, NONCE_METADATA, RETRY_METADATA, SERVICE
from fl_server.gateway.audit import CANCELLED, AuditLog
from fl_server.gateway.authenticator import Authenticator, Bearer
from fl_server.gateway.call import Call, await_hang_up, begin_call, current_call
from fl_server.gateway.limits import LoadLimits, RateLimiter
from fl_server.gateway.statuses import status_for

# None: the call authenticates itself (a ticket, a refresh token, the identity key) or is public.
REQUIRED_SCOPES: dict[str, str | None] = {
    "Enrol": None,
    "IssueToken": None,
    "GetKeys": None,
    "GetEvidence": "attest:read",
    "OpenRun": "run:manage",
    "SubmitUpdate": "update:submit",
    "GetUpdateStatus": "update:submit",
    "GetRelease": "model:read",
    "GetRecords": "run:manage",
}

# What is large is read without protobuf.
_READERS = {"SubmitUpdate": read_message}
_STREAMED = ("OpenRun", "SubmitUpdate")
_BINDS_PROOF_KEY = ("Enrol", "IssueToken")
# Never ends by itself, so anybody could hold as many as there are calls at a time.
_REFUSED = "/grpc.health.v1.Health/Watch"

_logger = logging.getLogger(__name__)
# A refusal may quote its caller, who must not fill the log or a reply's trailing metadata.
_MAX_SENTENCE = 500
_MISCONFIGURED = "The gateway's configuration is not valid; its log has the cause."
# Seconds, where whoever refuses does not say.
_RETRY_AFTER = 0.25


class _NoRequest(ConfigInvalid):
    """What came is no request of the method; any other `ConfigInvalid` is about the gateway."""

    def __init__(self, sentence: str) -> None:
        super().__init__(Code.CONFIG_INVALID, sentence)


class Gatekeeper(aio.ServerInterceptor):  # type: ignore[misc]
    """The interceptor that wraps every handler of the service.

    Parameters
    ----------
    auth : Authenticator
        Who makes a call.
    limiter : RateLimiter
        Calls of each client, and of each address before it is known whose they are.
    refusals : RateLimiter
        Tokens of each address that were refused. Apart from its calls, so that whoever has a bad
        token can still ask for another.
    audit : AuditLog
        Gets a line of each call.
    limits : LoadLimits
        Deadlines.
    behind_proxy : bool
        See `GatewayConfig`.
    """

    def __init__(
        self,
        auth: Authenticator,
        limiter: RateLimiter,
        refusals: RateLimiter,
        audit: AuditLog,
        limits: LoadLimits,
        *,
        behind_proxy: bool = False,
    ) -> None:
        self._auth, self._limiter, self._refusals = auth, limiter, refusals
        self._audit = audit
        self._behind_proxy = behind_proxy
        self._request_deadline = limits.request_deadline
        self._write_deadline = limits.write_deadline

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a method; of health checks only the single one is offered."""
        handler = await continuation(details)
        if handler is None or details.method == _REFUSED:
            return None
        name = details.method.removeprefix(SERVICE)
        read = _READERS.get(name, handler.request_deserializer)
        codec = (read, handler.response_serializer)
        if name == details.method:
            return grpc.stream_unary_rpc_method_handler(self._public(handler.unary_unary), *codec)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(name, handler.unary_stream), *codec
            )
        return grpc.stream_unary_rpc_method_handler(
            self._single(name, handler.stream_unary or handler.unary_unary), *codec
        )

    def _public(self, inner: Any) -> Any:
        async def handler(requests: Any, context: Any) -> Any:
            try:
                self._limiter.spend(self._address(_metadata_of(context), context))
                request = await _only(self._prompt(requests))
            except AsynclaveError as refusal:
                await _abort(context, refusal)
            return await inner(request, context)

        return handler

    def _single(self, name: str, inner: Any) -> Any:
        async def handler(requests: Any, context: Any) -> Any:
            async with self._serving(name, requests, context) as request:
                return await inner(request, context)

        return handler

    def _streaming(self, name: str, inner: Any) -> Any:
        async def handler(requests: Any, context: Any) -> None:
            async with (
                self._serving(name, requests, context) as request,
                contextlib.aclosing(inner(request, context)) as parts,
            ):
                await self._write(parts, context)

        return handler

    async def _write(self, parts: AsyncIterator[Any], context: Any) -> None:
        try:
            async with asyncio.timeout(self._write_deadline):
                async for part in parts:
                    await current_call().still_admitted()
                    await context.write(part)
        except TimeoutError:
            raise error_for(Code.DEADLINE, "the reply was not taken in time") from None

    @contextlib.asynccontextmanager
    async def _serving(self, name: str, requests: Any, context: Any) -> AsyncIterator[Any]:
        metadata = _metadata_of(context)
        call = begin_call(name, metadata)
        try:
            self._audit.require()
            await self._admit(call, self._address(metadata, context), metadata)
            yield await self._request(call, requests, metadata)
        except asyncio.CancelledError:
            self._record(call, CANCELLED)
            raise
        except AsynclaveError as error:
            refusal = error
            if isinstance(error, ConfigInvalid) and not isinstance(error, _NoRequest):
                # It names files of this host, which are its operator's business.
                _logger.error("%s failed: %s", name, error)
                refusal = ConfigInvalid(error.code, _MISCONFIGURED)
        except Exception:
            _logger.exception("%s failed", name)
            refusal = AsynclaveError(Code.INTERNAL)
        else:
            self._record(call, call.outcome)
            return
        self._record(call, refusal.code, refusal.sentence[:_MAX_SENTENCE])
        await _abort(context, refusal)

    async def _admit(self, call: Call, address: str, metadata: dict[str, str]) -> None:
        scope = REQUIRED_SCOPES[call.method]
        if scope is None:
            self._limiter.spend(address)
        else:
            self._refusals.check(address)
            bearer = await asyncio.to_thread(self._authenticate, call, scope, address, metadata)
            call.still_admitted = partial(asyncio.to_thread, self._auth.check_revocation, bearer)

    def _authenticate(
        self, call: Call, scope: str, address: str, metadata: dict[str, str]
    ) -> Bearer:
        bearer = self._bearer(scope, address, metadata)
        client_id = bearer.claims.client_id
        call.claim(client_id)
        # Whoever has a token without its key uses up what its own address may, not its owner's.
        self._limiter.spend(f"{address} {client_id}")
        self._auth.check_proof(SERVICE + call.method, bearer, metadata)
        call.prove(client_id)
        if bearer.revoked:
            raise TokenRejected(Code.TOKEN_REVOKED)
        self._limiter.spend(client_id)
        return bearer

    def _bearer(self, scope: str, address: str, metadata: dict[str, str]) -> Bearer:
        try:
            return self._auth.bearer(scope, metadata)
        except TokenRejected:
            self._refusals.spend(address)
            raise

    async def _request(self, call: Call, requests: Any, metadata: dict[str, str]) -> Any:
        if call.method in _STREAMED:
            return self._prompt(requests)
        request = await _only(self._prompt(requests))
        if call.method in _BINDS_PROOF_KEY:
            await asyncio.to_thread(
                self._auth.check_key, SERVICE + call.method, request.proof_key, metadata
            )
        await call.still_admitted()
        return request

    async def _prompt(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Pass messages on, the first of which must come soon; bytes that are none end the call."""
        messages = aiter(requests)
        try:
            async with asyncio.timeout(self._request_deadline):
                first = await anext(messages, None)
            if first is not None:
                yield first
                async for message in messages:
                    yield message
        except TimeoutError:
            raise error_for(Code.DEADLINE, "the call came without its request") from None
        except DecodeError:
            raise _NoRequest("the request is no message of this method") from None

    def _address(self, metadata: dict[str, str], context: Any) -> str:
        """Return where a call comes from, without the port, which a new connection changes."""
        forwarded = metadata.get("x-forwarded-for", "")
        if self._behind_proxy and forwarded:
            # What stands before the last one is what the caller said.
            return forwarded.rpartition(",")[2].strip()
        return str(context.peer()).rpartition(":")[0]

    def _record(self, call: Call, code: str, detail: str = "") -> None:
        self._audit.record(
            call.method,
            code,
            client=call.client_id,
            claimed_client=call.claimed_client,
            trace_id=call.trace_id,
            detail=detail,
        )


async def _only(requests: AsyncIterator[Any]) -> Any:
    """Return the request of a method that takes one."""
    async for request in requests:
        return request
    await await_hang_up()
    raise _NoRequest("the call came without its request")


async def _abort(context: Any, refusal: AsynclaveError) -> None:
    trailing = [(CODE_METADATA, refusal.code)]
    if isinstance(refusal, GatewayUnavailable):
        milliseconds = round(1000 * (refusal.retry_after or _RETRY_AFTER))
        trailing.append((RETRY_METADATA, str(milliseconds)))
    if isinstance(refusal, ProofRejected) and refusal.nonce:
        trailing.append((NONCE_METADATA, refusal.nonce))
    sentence = refusal.sentence[:_MAX_SENTENCE]
    await context.abort(status_for(refusal.code), sentence, tuple(trailing))


def _metadata_of(context: Any) -> dict[str, str]:
    """Return the metadata, values of one key joined by commas (RFC 9110, section 5.3).

    So none of several tokens or proofs passes for the only one: they have no commas. Binary values
    are left out, because nothing reads them.
    """
    values: dict[str, list[str]] = {}
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            values.setdefault(key, []).append(value)
    return {key: ",".join(several) for key, several in values.items()}
