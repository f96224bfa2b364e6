"""Damaged calls, requests and packets to real processes, which serve on afterwards."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.wire import CODE_METADATA, SERVICE
from fl_server.gateway.auth import REQUIRED_SCOPES
from fl_server.stack import LocalStack, StackSettings
from tests.support.enclave import LAYOUT, Lab
from tests.support.platform_process import Platform, platform
from tests.support.sealed import RECIPE, K, RawGateway
from tests.tee_sim.conftest import lab, running, sealed_image

__all__ = ["lab", "platform", "running", "sealed_image"]

REQUESTS = {
    "Enrol": pb.EnrolRequest(ticket="t" * 20, identity_key=bytes(32), proof_key=bytes(32)),
    "IssueToken": pb.TokenRequest(client_id="a", refresh_token="r", proof_key=bytes(32)),
    "GetKeys": pb.KeysRequest(),
    "GetEvidence": pb.EvidenceRequest(nonce=bytes(32)),
    "OpenRun": pb.OpenRunRequest(
        header=pb.OpenRunHeader(
            run_id="run", layout_json=LAYOUT.to_json(), recipe_json="{}", length=64
        )
    ),
    "SubmitUpdate": pb.SubmitRequest(
        header=pb.SubmitHeader(protected=b"{}", wrap=bytes(80), tags=bytes(16))
    ),
    "GetUpdateStatus": pb.UpdateStatusRequest(run_id="run", update_id="u", nonce=bytes(16)),
    "GetRelease": pb.GetReleaseRequest(run_id="run", version=1),
    "GetRecords": pb.GetRecordsRequest(from_seq=0),
}


def damaged(data: bytes, chance: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(content))
        content[at : at + chance.randint(0, 9)] = chance.randbytes(chance.choice([0, 1, 4, 300]))
    return bytes(content)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with LocalStack(tmp_path_factory.mktemp("fuzzed"), StackSettings(recipe=RECIPE, k=K)) as stack:
        yield stack


def answer(raw: RawGateway, method: str, body: bytes, metadata: list[tuple[str, Any]]) -> Any:
    """Return a reply's bytes, or the refusal's code, or gRPC's status if there is none."""
    call = raw._channel.stream_stream(SERVICE + method)
    try:
        return b"".join(call(iter([body]), metadata=metadata, timeout=20))
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        return trailing.get(CODE_METADATA, error.code())


def test_damaged_calls_get_an_answer_and_cost_nobody_the_gateway(stack: LocalStack) -> None:
    assert REQUESTS.keys() == REQUIRED_SCOPES.keys()
    before = (stack.gateway_pid, stack.enclave_pid)
    chance, raw = random.Random(1), RawGateway(stack)
    tokens = {}
    for role in ("client", "server"):
        member = RawGateway(stack)
        enrolled = member.enrol(stack.ticket(role, f"fuzz-{role}"))
        token = member.refresh(enrolled.client_id, enrolled.refresh_token).access_token
        tokens[role] = (member, token)
    answers = set()
    for number in range(600):
        method = chance.choice([*REQUESTS])
        member, token = chance.choice([*tokens.values()])
        metadata = [("dpop", member.proof(method, token)), ("authorization", f"DPoP {token}")]
        if number % 3 == 0:
            at = chance.randrange(2)
            name, value = metadata[at]
            text = damaged(value.encode(), chance)
            metadata[at] = (name, "".join(chr(32 + byte % 95) for byte in text))
        body = damaged(REQUESTS[method].SerializeToString(), chance)
        answers.add(answer(raw, method, body, metadata))
    codes = {found for found in answers if not isinstance(found, bytes)}
    assert codes > {"CONFIG_INVALID", "PROOF_INVALID", "TOKEN_MISSING", "TOKEN_SCOPE"}
    assert codes <= {*Code} - {Code.INTERNAL, Code.DEADLINE}
    assert (stack.gateway_pid, stack.enclave_pid) == before
    member, token = tokens["client"]
    assert member.call("GetEvidence", pb.EvidenceRequest(nonce=bytes(32)), token).evidence


def test_damaged_requests_of_a_gateway_leave_the_enclave_as_it_was(lab: Lab) -> None:
    chance, before = random.Random(2), lab.status()
    good = lab.update(lab.member("a"))
    for operation in ("OPEN_RUN", "SUBMIT", "GET_RELEASE", "GET_RECORDS", "UPDATE_STATUS", "?"):
        request = {"op": operation, "run_id": lab.run_id, "version": 1, "update_id": "u"}
        request |= {name: part.hex() for name, part in good.parts.items()}
        request |= {"layout_json": LAYOUT.to_json(), "recipe_json": "{}", "from_seq": 0}
        for _ in range(40):
            try:
                header = canonical.decode_object(
                    damaged(canonical.encode(request), chance), 1 << 16
                )
            except CanonicalError:
                header = {**request, chance.choice([*request]): chance.choice([0, "", [], {}, -1])}
            reply = lab.ask(header, damaged(good.body, chance))
            assert type(reply["ok"]) is bool
    assert lab.status() == before
    assert lab.submit(good)["ok"]


def test_damaged_packets_to_the_launcher_are_answered(platform: Platform) -> None:
    chance = random.Random(3)
    for _ in range(200):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
            raw.settimeout(20)
            raw.connect(str(platform.socket))
            raw.send(damaged(b'{"mac":"00","nonce":"' + b"00" * 32 + b'","op":"ATTACH"}', chance))
            assert b'"ok":false' in raw.recv(4096)
    assert platform.process.poll() is None
