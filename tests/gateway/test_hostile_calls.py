"""Calls of enrolled but hostile nodes must cost nobody else anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fl_protocol.proto import gateway_pb2 as pb
from fl_server.stack import LocalStack
from tests.support.sealed import RawGateway

Token = Callable[[str], str]


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("GetEvidence", pb.EvidenceRequest(nonce=bytes(1_000_000)), "EVIDENCE_NONCE"),
        ("GetRelease", pb.GetReleaseRequest(run_id="x", version=2**64 - 1), "TOO_LARGE"),
        ("GetRelease", pb.GetReleaseRequest(run_id="\x01" * 1_900_000), "TOO_LARGE"),
    ],
    ids=["long nonce", "large version", "long run id"],
)
def test_an_oversized_request_leaves_the_enclave_running(
    stack: LocalStack, raw: RawGateway, token: Token, method: str, request_: object, code: str
) -> None:
    enclave, client = stack.enclave_pid, token("client")
    assert raw.call(method, request_, client) == code
    assert raw.call("GetEvidence", pb.EvidenceRequest(nonce=bytes(32)), client).evidence
    assert stack.enclave_pid == enclave
