"""Refusal codes as gRPC statuses: outside only the code and a sentence, never an internal."""

from __future__ import annotations

import grpc

from fl_protocol.codes import Code

_EXACT: dict[str, grpc.StatusCode] = {
    Code.TOKEN_SCOPE: grpc.StatusCode.PERMISSION_DENIED,
    Code.ENV_IDENTITY: grpc.StatusCode.PERMISSION_DENIED,
    Code.ENV_MEMBERSHIP: grpc.StatusCode.PERMISSION_DENIED,
    Code.ENV_REPLAY_MISMATCH: grpc.StatusCode.ALREADY_EXISTS,
    Code.ENV_EPOCH: grpc.StatusCode.FAILED_PRECONDITION,
    Code.ENV_KEY_ID: grpc.StatusCode.FAILED_PRECONDITION,
    Code.RUN_UNKNOWN: grpc.StatusCode.FAILED_PRECONDITION,
    Code.RUN_REGRESSED: grpc.StatusCode.FAILED_PRECONDITION,
    Code.DP_CHANGED: grpc.StatusCode.FAILED_PRECONDITION,
    Code.RUN_MEMORY: grpc.StatusCode.FAILED_PRECONDITION,
    Code.RELEASE_NOT_READY: grpc.StatusCode.NOT_FOUND,
    Code.GATEWAY_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.ENCLAVE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.REGISTRY_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.CIRCUIT_OPEN: grpc.StatusCode.UNAVAILABLE,
    Code.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.JOURNAL_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.JOURNAL_FAILED: grpc.StatusCode.UNAVAILABLE,
    Code.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.HOP_SIGNATURE: grpc.StatusCode.INTERNAL,
    Code.HOP_STALE: grpc.StatusCode.INTERNAL,
    Code.HOP_REPLAYED: grpc.StatusCode.INTERNAL,
    Code.HOP_BODY: grpc.StatusCode.INTERNAL,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}

_UNAUTHENTICATED = ("TOKEN_", "REFRESH_", "PROOF_", "ENROL_", "IDENTITY_")


def status_for(code: str) -> grpc.StatusCode:
    """Map a refusal code to the gRPC status that carries it."""
    if code in _EXACT:
        return _EXACT[code]
    if code.startswith(_UNAUTHENTICATED):
        return grpc.StatusCode.UNAUTHENTICATED
    return grpc.StatusCode.INVALID_ARGUMENT
