"""Admission: every call passes here before its handler runs, and leaves one audit line.

Order: method known -> rate -> token -> proof of possession -> revocation. Refusals leave as a
gRPC status with the code in the trailing metadata and a constant sentence.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from fl_protocol.codes import AsynclaveError, Code, ProofRejected, TokenRejected
from fl_protocol.proof import ProofVerifier, thumbprint
from fl_protocol.tokens import Claims, TokenVerifier
from fl_protocol.wire import CODE_METADATA, SERVICE
from fl_server.gateway.audit import AuditLog
from fl_server.gateway.issuer import family_of
from fl_server.gateway.limits import RateLimiter
from fl_server.gateway.registry import Registry
from fl_server.gateway.statuses import status_for

# None: the call authenticates itself (a ticket, a refresh token, the identity key) or is public.
REQUIRED_SCOPES: dict[str, str | None] = {
    "Enrol": None,
    "IssueToken": None,
    "GetKeys": None,
    "GetEvidence": "attest:read",
    "OpenRun": "run:manage",
    "SubmitUpdate": "update:submit",
    "GetRelease": "model:read",
}

_BINDS_PROOF_KEY = ("Enrol", "IssueToken")

_logger = logging.getLogger(__name__)
_current: ContextVar[Call] = ContextVar("asynclave_call")


@dataclass
class Call:
    """What is known of the call being served; handlers fill in what the audit line should say."""

    method: str
    client_id: str = ""
    trace_id: str = ""
    outcome: str = "OK"


def current_call() -> Call:
    """Return the call the running handler serves."""
    return _current.get()


class Authenticator:
    """Decides whether the bearer of a token and a proof may make a call."""

    def __init__(self, tokens: TokenVerifier, proofs: ProofVerifier, registry: Registry) -> None:
        self._tokens, self._proofs, self._registry = tokens, proofs, registry

    def check(self, method: str, scope: str, metadata: dict[str, str]) -> Claims:
        """Verify token, scope, proof and revocation, in this order.

        Parameters
        ----------
        method : str
            Full gRPC method, the proof's htu.
        scope : str
            Scope the method requires.
        metadata : dict
            Call metadata; "authorization" and "dpop" are read.

        Raises
        ------
        TokenRejected, ProofRejected
        """
        kind, _, token = metadata.get("authorization", "").partition(" ")
        if kind != "DPoP" or not token:
            raise TokenRejected(Code.TOKEN_MISSING)
        claims = self._tokens.verify(token, scope)
        self._proofs.verify(_proof_in(metadata), method, token, claims.jkt)
        if self._registry.is_revoked(
            client_id=claims.client_id, family=family_of(claims.jti), jti=claims.jti
        ):
            raise TokenRejected(Code.TOKEN_REVOKED)
        return claims

    def check_key(self, method: str, proof_key: bytes, metadata: dict[str, str]) -> None:
        """Verify that a caller without a token holds the proof key it wants bound to one.

        Raises
        ------
        ProofRejected
        """
        self._proofs.verify(_proof_in(metadata), method, None, thumbprint(proof_key))


def _proof_in(metadata: dict[str, str]) -> str:
    if not metadata.get("dpop"):
        raise ProofRejected(Code.PROOF_MISSING)
    return metadata["dpop"]


class Gatekeeper(aio.ServerInterceptor):  # type: ignore[misc]
    """The interceptor that wraps every handler of the service."""

    def __init__(self, auth: Authenticator, limiter: RateLimiter, audit: AuditLog) -> None:
        self._auth, self._limiter, self._audit = auth, limiter, audit

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of a method of ours; others (health) pass unchanged."""
        handler = await continuation(details)
        name = details.method.removeprefix(SERVICE)
        if handler is None or name == details.method:
            return handler
        codec = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(name, handler.unary_stream), *codec
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._single(name, handler.stream_unary), *codec
            )
        return grpc.unary_unary_rpc_method_handler(self._single(name, handler.unary_unary), *codec)

    def _single(self, name: str, inner: Any) -> Any:
        async def handler(request: Any, context: Any) -> Any:
            async with self._serving(name, request, context):
                return await inner(request, context)

        return handler

    def _streaming(self, name: str, inner: Any) -> Any:
        async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._serving(name, request, context):
                async for part in inner(request, context):
                    yield part

        return handler

    @contextlib.asynccontextmanager
    async def _serving(self, name: str, request: Any, context: Any) -> AsyncIterator[None]:
        call = Call(name)
        _current.set(call)
        try:
            self._admit(call, request, context)
            yield
        except AsynclaveError as error:
            refusal = error
        except Exception:
            _logger.exception("%s failed", name)
            refusal = AsynclaveError(Code.INTERNAL)
        else:
            self._record(call, call.outcome)
            return
        self._record(call, refusal.code, refusal.sentence)
        await context.abort(
            status_for(refusal.code), refusal.sentence, ((CODE_METADATA, refusal.code),)
        )

    def _admit(self, call: Call, request: Any, context: Any) -> None:
        scope = REQUIRED_SCOPES[call.method]
        metadata = {key: value for key, value in context.invocation_metadata() or ()}
        if scope is not None:
            claims = self._auth.check(SERVICE + call.method, scope, metadata)
            call.client_id = claims.client_id
            self._limiter.spend(claims.client_id)
            return
        self._limiter.spend(_address(context.peer()))
        if call.method in _BINDS_PROOF_KEY:
            self._auth.check_key(SERVICE + call.method, request.proof_key, metadata)

    def _record(self, call: Call, code: str, detail: str = "") -> None:
        self._audit.record(
            call.method, code, client=call.client_id, trace_id=call.trace_id, detail=detail
        )


def _address(peer: str) -> str:
    """Drop the port, which a new connection would change."""
    return peer.rpartition(":")[0]
