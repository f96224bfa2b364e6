"""What the audit log says of who called, and of calls that were given up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

from fl_protocol.ports import SystemClock
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.stack import LocalStack
from tests.support.processes import wait_until
from tests.support.sealed import RawGateway, audit_lines


def evidence() -> pb.EvidenceRequest:
    return pb.EvidenceRequest(nonce=bytes(32))


def test_the_audit_log_marks_who_a_caller_only_claims_to_be(
    stack: LocalStack, raw: RawGateway
) -> None:
    enrolled = raw.enrol(stack.ticket("client", "impersonated"))
    reply = raw.refresh(enrolled.client_id, enrolled.refresh_token)
    stranger = RawGateway(stack)
    stranger.by_identity(enrolled.client_id, bytes(16))
    stranger.call("GetEvidence", evidence(), reply.access_token)
    raw.call("OpenRun", iter([pb.OpenRunRequest()]), reply.access_token)
    raw.call("GetEvidence", evidence(), reply.access_token)
    lines = [json.loads(line) for line in audit_lines(stack).splitlines()][-5:]
    said = [(x["event"], x["code"], x.get("client"), x.get("claimed_client")) for x in lines]
    name = enrolled.client_id
    assert said == [
        ("IssueToken", "OK", name, None),
        ("IssueToken", "IDENTITY_INVALID", None, name),
        ("GetEvidence", "PROOF_INVALID", None, name),
        ("OpenRun", "TOKEN_SCOPE", None, None),
        ("GetEvidence", "OK", name, None),
    ]
    stranger.close()


def test_a_caller_that_hangs_up_half_way_is_no_refusal(
    stack: LocalStack, raw: RawGateway, token: Callable[[str], str]
) -> None:
    member = token("server")
    metadata = [("dpop", raw.proof("OpenRun", member)), ("authorization", f"DPoP {member}")]
    sent, ended = threading.Event(), threading.Event()

    def half() -> Iterator[pb.OpenRunRequest]:
        yield pb.OpenRunRequest(header=pb.OpenRunHeader(run_id="half", length=1000))
        yield pb.OpenRunRequest(chunk=bytes(500))
        sent.set()
        ended.wait(20)

    before = len(audit_lines(stack).splitlines())
    call = raw._stub.OpenRun.future(half(), metadata=metadata, timeout=20)
    assert sent.wait(20)
    SystemClock().sleep(0.2)
    call.cancel()
    ended.set()
    wait_until(lambda: len(audit_lines(stack).splitlines()) > before)
    (line,) = audit_lines(stack).splitlines()[before:]
    assert (json.loads(line)["event"], json.loads(line)["code"]) == ("OpenRun", "CANCELLED")
