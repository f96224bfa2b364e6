"""One gRPC channel to the gateway: TLS, credentials on each call, statuses as typed errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from fl_protocol.codes import AsynclaveError, Code, GatewayUnavailable, ProofRejected, error_for
from fl_protocol.identity import Identity
from fl_protocol.ports import Clock, Rng
from fl_protocol.proof import make_proof
from fl_protocol.proto import gateway_pb2_grpc

SERVICE = "/asynclave.v1.Gateway/"
CODE_METADATA = "asynclave-code"
RETRY_METADATA = "asynclave-retry-after"
NONCE_METADATA = "dpop-nonce"

_STATUS_CODES = {
    grpc.StatusCode.UNAVAILABLE: Code.GATEWAY_UNAVAILABLE,
    # This side never cancels, so it is a gateway that is shutting down.
    grpc.StatusCode.CANCELLED: Code.GATEWAY_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Code.DEADLINE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Code.OVERLOADED,
}
# gRPC's own reconnection backoff grows to two minutes, long after a gateway has recovered.
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_LOOPBACK = ("localhost:", "127.0.0.1:", "[::1]:")

_MAX_DETAILS = 300
_NONCE = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A gateway that asks for more is not believed.
_LONGEST_RETRY = 60.0

_Reply = TypeVar("_Reply")


class Wire:
    """Makes single attempts of calls; knows nothing of tokens' lifetimes or retries.

    Parameters
    ----------
    address : str
        "host:port" of the gateway.
    ca_pem : bytes
        PEM certificates of the authorities the gateway's certificate must come from.
    identity : Identity
        Its proof key signs every call.
    clock, rng : Clock, Rng
        Time and ids of proofs.
    timeout : float
        Seconds one attempt may take.
    """

    def __init__(
        self,
        address: str,
        ca_pem: bytes,
        identity: Identity,
        clock: Clock,
        rng: Rng,
        timeout: float,
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._rng = rng
        self._timeout = timeout
        options: list[tuple[str, int]] = list(_CHANNEL_OPTIONS)
        if address.startswith(_LOOPBACK):
            options.append(("grpc.enable_http_proxy", 0))
        credentials = grpc.ssl_channel_credentials(root_certificates=ca_pem)
        self._channel = grpc.secure_channel(address, credentials, options=options)
        self._nonce: str | None = None
        self._stub = gateway_pb2_grpc.GatewayStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def invoke(
        self,
        method: str,
        request: Any,
        read: Callable[[Any], _Reply],
        token: str | None,
        timeout: float | None = None,
        trace_id: str | None = None,
    ) -> _Reply:
        """Make one attempt; parameters are those of `Session.receive`.

        A gateway that asks for another nonce in the proof is asked again at once.

        Raises
        ------
        AsynclaveError
            The typed error of the gateway's code or of the gRPC status.
        """
        try:
            return self._attempt(method, request, read, token, timeout, trace_id)
        except ProofRejected as error:
            if not error.nonce:
                raise
            self._nonce = error.nonce
        return self._attempt(method, request, read, token, timeout, trace_id)

    def _attempt(
        self,
        method: str,
        request: Any,
        read: Callable[[Any], _Reply],
        token: str | None,
        timeout: float | None,
        trace_id: str | None,
    ) -> _Reply:
        proof = make_proof(
            self._identity.proof_key, SERVICE + method, token, self._clock, self._rng, self._nonce
        )
        metadata = [("dpop", proof)]
        if token is not None:
            metadata.append(("authorization", f"DPoP {token}"))
        if trace_id is not None:
            metadata.append(("traceparent", f"00-{trace_id}-{self._rng.bytes(8).hex()}-01"))
        message = request() if callable(request) else request
        try:
            remote = getattr(self._stub, method)
            return read(remote(message, timeout=timeout or self._timeout, metadata=metadata))
        except grpc.RpcError as error:
            raise _typed(error) from error


def _typed(error: grpc.RpcError) -> AsynclaveError:
    """Turn a gRPC status and its code metadata into the typed error."""
    status, details = error.code(), (error.details() or "")[:_MAX_DETAILS]
    trailing = dict(error.trailing_metadata() or ())
    code = trailing.get(CODE_METADATA)
    if isinstance(code, str):
        typed = error_for(code, details or None)
        if isinstance(typed, GatewayUnavailable):
            typed.retry_after = _seconds(trailing.get(RETRY_METADATA))
        if isinstance(typed, ProofRejected):
            typed.nonce = _nonce(trailing.get(NONCE_METADATA))
        return typed
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return error_for(Code.CONFIG_INVALID, "The address does not serve an Asynclave gateway.")
    return error_for(_STATUS_CODES.get(status, Code.INTERNAL), details or None)


def _nonce(text: str | bytes | None) -> str:
    return text if isinstance(text, str) and _NONCE.fullmatch(text) else ""


def _seconds(milliseconds: str | bytes | None) -> float:
    if isinstance(milliseconds, str) and milliseconds.isdigit():
        return min(int(milliseconds[:9]) / 1000, _LONGEST_RETRY)
    return 0.0
