"""What the audit log says of who called, and of calls that were given up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Never, cast

import pytest

from fl_protocol.codes import StorageFailed
from fl_protocol.ports import SystemClock
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.gateway.audit import AuditLog
from fl_server.gateway.auth import Gatekeeper
from fl_server.gateway.authenticator import Authenticator
from fl_server.gateway.limits import LoadLimits, RateLimiter
from fl_server.stack import LocalStack
from tests.support.disk import no_room
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


def lines_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_that_the_disk_does_not_take_whole_leaves_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    audit.record("Enrol", "OK")
    for room in (0, 1, 20):
        with no_room(path.stat().st_size + room):
            audit.record("IssueToken", "OK")
            with pytest.raises(StorageFailed, match=r"^JOURNAL_FULL"):
                audit.require()
    assert [line["event"] for line in lines_in(path)] == ["Enrol"]
    audit.require()
    audit.record("GetKeys", "OK")
    audit.close()
    _, missing, last = lines_in(path)
    assert (missing["code"], missing["detail"]) == ("JOURNAL_FULL", "3 calls have no line")
    assert last["event"] == "GetKeys"


def test_an_audit_log_that_cannot_be_opened_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match=r"^JOURNAL_FAILED: .*Is a directory"):
        AuditLog(tmp_path)


Answer = Callable[[pb.KeysRequest, Any], Awaitable[Any]]


class Aborted(Exception):
    """How a call ended."""


class Context:
    """What a handler is told of its call."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(self, status: object, sentence: str, trailing: tuple[Any, ...]) -> Never:
        raise Aborted(dict(trailing)["asynclave-code"])


async def requests() -> AsyncIterator[pb.KeysRequest]:
    yield pb.KeysRequest()


def keys_call(audit: AuditLog, answer: Answer) -> Any:
    """`GetKeys`, which is public, as a gateway with this audit log serves it."""
    limits = LoadLimits()
    limiter = RateLimiter(limits.rate, limits.burst, SystemClock())
    gatekeeper = Gatekeeper(cast(Authenticator, None), limiter, limiter, audit, limits)
    return gatekeeper._single("GetKeys", answer)


async def test_nothing_is_done_for_a_call_that_cannot_be_written_down(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    served = []

    async def answer(request: pb.KeysRequest, context: Context) -> str:
        served.append(request)
        return "keys"

    call = keys_call(audit, answer)
    with no_room(10):
        # It was done before anybody could know.
        assert await call(requests(), Context()) == "keys"
        for _ in range(2):
            with pytest.raises(Aborted, match=r"^JOURNAL_FULL$"):
                await call(requests(), Context())
    assert len(served) == 1
    assert await call(requests(), Context()) == "keys"
    audit.close()
    found = [(line["event"], line["code"], line.get("detail")) for line in lines_in(path)]
    assert found == [("audit", "JOURNAL_FULL", "3 calls have no line"), ("GetKeys", "OK", None)]


async def test_a_call_whose_caller_hangs_up_leaves_its_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    begun = asyncio.Event()

    async def answer(request: pb.KeysRequest, context: Context) -> None:
        begun.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(keys_call(audit, answer)(requests(), Context()))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    audit.close()
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["event"], line["code"]) == ("GetKeys", "CANCELLED")
