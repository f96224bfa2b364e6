"""Calls of enrolled but hostile nodes must cost nobody else anything."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fl_client.config import ClientConfig
from fl_client.uploader import SealedUploader
from fl_protocol.codes import EnvelopeRejected, EvidenceRejected, GatewayUnavailable
from fl_protocol.encoding import b64url
from fl_protocol.identity import Identity
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proof import ProofVerifier, make_proof
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.wire import CODE_METADATA, SERVICE
from fl_server.gateway.authenticator import Authenticator
from fl_server.gateway.limits import LoadLimits
from fl_server.stack import LocalStack, StackSettings
from fl_server.stack.keys import TOKEN_KEY
from tee_sim.node_config import NodeConfig
from tests.support.sealed import RECIPE, K, RawGateway, audit_lines, client, trained

Token = Callable[[str], str]


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("GetEvidence", pb.EvidenceRequest(nonce=bytes(1_000_000)), "EVIDENCE_NONCE"),
        ("GetRelease", pb.GetReleaseRequest(run_id="x", version=2**64 - 1), "RUN_UNKNOWN"),
        ("GetRelease", pb.GetReleaseRequest(run_id="\x01" * 1_900_000), "TOO_LARGE"),
    ],
    ids=["long nonce", "large version", "long run id"],
)
def test_an_oversized_request_leaves_the_enclave_running(
    stack: LocalStack, raw: RawGateway, token: Token, method: str, request_: object, code: str
) -> None:
    enclave, member = stack.enclave_pid, token("server")
    assert raw.call(method, request_, member) == code
    assert raw.call("GetEvidence", pb.EvidenceRequest(nonce=bytes(32)), member).evidence
    assert stack.enclave_pid == enclave


def test_records_from_a_number_beyond_any_are_none(raw: RawGateway, token: Token) -> None:
    member = token("server")
    for number in (2**63 - 1, 2**64 - 1):
        reply = raw.call("GetRecords", pb.GetRecordsRequest(from_seq=number), member)
        assert not reply.records and reply.head.payload


def test_nobody_can_hold_calls_open_by_watching_health(raw: RawGateway) -> None:
    watch = health_pb2_grpc.HealthStub(raw._channel).Watch(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_refusal_does_not_repeat_a_megabyte_of_its_caller(
    stack: LocalStack, raw: RawGateway, token: Token
) -> None:
    layout = '{"arrays":[["' + "x" * 1_000_000 + '","float99",[4]]],"v":1}'
    header = pb.OpenRunHeader(run_id="r", layout_json=layout, recipe_json="{}")
    request = pb.OpenRunRequest(header=header)
    assert raw.call("OpenRun", iter([request]), token("server")) == "RUN_MANIFEST"
    assert max(len(line) for line in audit_lines(stack).splitlines()) < 2000


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_a_stranger_is_not_told_of_the_gateways_files(
    stack: LocalStack, raw: RawGateway, content: bytes | None
) -> None:
    path = stack.state_dir / TOKEN_KEY
    key = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            raw._stub.GetKeys(pb.KeysRequest(), timeout=20)
    finally:
        path.write_bytes(key)
        path.chmod(0o600)
    assert dict(caught.value.trailing_metadata())[CODE_METADATA] == "CONFIG_INVALID"
    assert TOKEN_KEY not in caught.value.details()
    assert f"{TOKEN_KEY} is no key" in (stack.state_dir / "gateway.log").read_text()
    assert raw.call("GetKeys", pb.KeysRequest()).jwks_json


@pytest.fixture
def unmade() -> Iterator[Iterator[bytes]]:
    """A request that is not made before the test ends."""
    ended = threading.Event()

    def silence() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    yield silence()
    ended.set()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    settings = StackSettings(recipe=RECIPE, k=K, limits=LoadLimits(request_deadline=0.2))
    with LocalStack(tmp_path_factory.mktemp("hasty"), settings) as stack:
        yield stack


@pytest.mark.parametrize(
    "method", [SERVICE + "GetKeys", SERVICE + "Enrol", "/grpc.health.v1.Health/Check"]
)
def test_a_strangers_call_without_a_request_is_ended(
    hasty: LocalStack, unmade: Iterator[bytes], method: str
) -> None:
    raw = RawGateway(hasty)
    call = raw._channel.stream_unary(method).future(unmade)
    assert call.exception(timeout=20).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    raw.close()


def test_a_members_call_without_a_request_is_ended(
    hasty: LocalStack, unmade: Iterator[bytes]
) -> None:
    raw = RawGateway(hasty)
    enrolled = raw.enrol(hasty.ticket("client", "silent"))
    token = raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token
    assert raw.call("SubmitUpdate", unmade, token) == "DEADLINE"
    raw.close()


def test_without_a_token_no_request_is_waited_for(raw: RawGateway, unmade: Iterator[bytes]) -> None:
    call = raw._channel.stream_unary(SERVICE + "GetEvidence").future(unmade)
    assert call.exception(timeout=5).code() is grpc.StatusCode.UNAUTHENTICATED


def test_proofs_of_strangers_do_not_crowd_out_those_of_members() -> None:
    clock, rng, identity = SystemClock(), SystemRng(), Identity.generate(SystemRng())
    members, strangers = ProofVerifier(clock, capacity=1), ProofVerifier(clock, capacity=1)
    nobody: Any = None
    authenticator = Authenticator(nobody, members, strangers, nobody)

    def prove() -> dict[str, str]:
        return {"dpop": make_proof(identity.proof_key, "/Enrol", None, clock, rng)}

    authenticator.check_key("/Enrol", identity.public_proof_key, prove())
    with pytest.raises(GatewayUnavailable, match="OVERLOADED"):
        authenticator.check_key("/Enrol", identity.public_proof_key, prove())
    members.verify(prove()["dpop"], "/Enrol", None, identity.jkt)


def test_a_bundle_refuses_a_policy_under_which_one_client_may_be_the_whole_release(
    tmp_path: Path,
) -> None:
    settings = StackSettings(k=4)
    with LocalStack(tmp_path, settings) as stack:
        guardrails = NodeConfig.load(stack.client_config("wary")).trust_policy().guardrails
    agreed = settings.policy(b64url(bytes(32)))
    guardrails.check(agreed)
    with pytest.raises(EvidenceRejected, match="max_share"):
        guardrails.check(dataclasses.replace(agreed, max_share=1.0, min_effective=1.0))


def test_a_node_accepts_no_policy_but_the_agreed_one(stack: LocalStack) -> None:
    bundle = ClientConfig.load(stack.client_config("strict"))
    running = SealedUploader(bundle)._connection.attestor.current().policy
    assert bundle.policy_digest == running.digest
    # The enclave's recipe, issuer or bounds are others than those that went into the minutes.
    agreed = dataclasses.replace(running, max_norm=1.0)
    stricter = dataclasses.replace(bundle, policy_digest=agreed.digest)
    with pytest.raises(EvidenceRejected, match="EVIDENCE_POLICY"):
        SealedUploader(stricter)._connection.attestor.current()


def test_a_client_seals_nothing_to_an_enclave_that_believes_another_issuer(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader = client(stack, "particular")
    attested = uploader._connection.attestor.current()
    policy = dataclasses.replace(attested.policy, issuer_key=b64url(bytes(32)))
    other = dataclasses.replace(attested, policy=policy)
    monkeypatch.setattr(uploader._connection.attestor, "refresh", lambda: other)
    with pytest.raises(EnvelopeRejected, match="ENV_MEMBERSHIP"):
        uploader.upload(trained("any", 1.0))
