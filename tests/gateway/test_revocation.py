"""Whoever is revoked in the middle of a call gets no further with it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import grpc
import pytest

from fl_client.sealing import submit_messages
from fl_client.uploader import SealedUploader
from fl_protocol.codes import TokenRejected
from fl_protocol.encoding import b64url_decode
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.wire import CODE_METADATA, SERVICE
from fl_server.stack import LocalStack
from tests.support.processes import wait_until
from tests.support.sealed import (
    RawGateway,
    client,
    open_run,
    sealed_by,
    submit,
    trained,
)


def client_id(uploader: SealedUploader) -> str:
    return uploader._session.enrol().client_id


def admitted(stack: LocalStack, raw: RawGateway) -> int:
    """Return how many calls had their proof taken, which is after revocation was looked up."""
    query = "SELECT count(*) FROM used WHERE kind = 'proof' AND value GLOB ?"
    with closing(sqlite3.connect(stack.state_dir / "registry.sqlite")) as registry:
        return int(registry.execute(query, (f"{raw.identity.jkt}.*",)).fetchone()[0])


def journal_of(stack: LocalStack) -> bytes:
    return b"".join(path.read_bytes() for path in stack.journal_dir.glob("*.journal"))


def refusal_of(raw: RawGateway, method: str, token: str, messages: Iterator[Any]) -> str:
    """Make a call of any method as a stream; return its code."""
    metadata = [("dpop", raw.proof(method, token)), ("authorization", f"DPoP {token}")]
    call = raw._channel.stream_stream(
        SERVICE + method, request_serializer=lambda message: message.SerializeToString()
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(call(messages, metadata=metadata, timeout=20))
    return str(dict(caught.value.trailing_metadata())[CODE_METADATA])


@pytest.mark.parametrize("kind", ["client", "family", "jti"])
@pytest.mark.parametrize(
    ("role", "method", "messages"),
    [
        ("client", "GetEvidence", [pb.EvidenceRequest(nonce=bytes(32))]),
        ("server", "GetRecords", [pb.GetRecordsRequest(from_seq=0)]),
        (
            "server",
            "OpenRun",
            [
                pb.OpenRunRequest(header=pb.OpenRunHeader(run_id="any", length=4)),
                pb.OpenRunRequest(chunk=bytes(4)),
            ],
        ),
    ],
    ids=["evidence", "records", "run"],
)
def test_whoever_is_revoked_before_its_request_is_whole_is_refused(
    stack: LocalStack, kind: str, role: str, method: str, messages: list[Any]
) -> None:
    raw = RawGateway(stack)
    enrolled = raw.enrol(stack.ticket(role, "slow"))
    token = raw.refresh(enrolled.client_id, enrolled.refresh_token).access_token
    jti = json.loads(b64url_decode(token.split(".")[1]))["jti"]
    names = {"client": enrolled.client_id, "family": jti.partition(".")[0], "jti": jti}

    def slowly() -> Iterator[Any]:
        yield from messages[:-1]
        wait_until(lambda: admitted(stack, raw))
        stack.revoke(kind, names[kind])
        yield messages[-1]

    assert refusal_of(raw, method, token, slowly()) == "TOKEN_REVOKED"
    raw.close()


def test_an_update_of_a_client_that_is_revoked_before_its_body_came_does_not_count(
    stack: LocalStack,
) -> None:
    intake = open_run(stack, "body")
    slow, other = client(stack, "slow-body"), client(stack, "quick-body")
    (message,) = submit_messages(*sealed_by(slow, trained("body", 1.0)))
    raw = RawGateway(stack, identity=slow._connection.store.load_or_create(slow._rng))
    before = admitted(stack, raw)

    def slowly() -> Iterator[Any]:
        yield pb.SubmitRequest(header=message.header)
        wait_until(lambda: admitted(stack, raw) > before)
        stack.revoke("client", client_id(slow))
        yield pb.SubmitRequest(segment=message.segment)

    token = str(slow._session._credentials.token())
    assert refusal_of(raw, "SubmitUpdate", token, slowly()) == "TOKEN_REVOKED"
    # One more would merge with it.
    assert other.upload(trained("body", 3.0)).receipt.version == 0
    raw.close()
    intake.close()


def test_an_update_of_a_client_that_is_revoked_while_others_have_their_turn_does_not_count(
    stack: LocalStack,
) -> None:
    intake = open_run(stack, "turn")
    first, second, third = (client(stack, name) for name in ("first", "second", "third"))
    updates = [sealed_by(node, trained("turn", 1.0)) for node in (first, second)]
    os.kill(stack.enclave_pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as pool:
            uploads = [pool.submit(submit, first, *updates[0])]
            wait_until(lambda: client_id(first).encode() in journal_of(stack))
            uploads.append(pool.submit(submit, second, *updates[1]))
            wait_until(lambda: client_id(second).encode() in journal_of(stack))
            stack.revoke("client", client_id(second))
            os.kill(stack.enclave_pid, signal.SIGCONT)
            assert json.loads(uploads[0].result(60).payload)["outcome"] == "accepted"
            with pytest.raises(TokenRejected, match=r"^TOKEN_REVOKED"):
                uploads[1].result(60)
    finally:
        os.kill(stack.enclave_pid, signal.SIGCONT)
    assert third.upload(trained("turn", 3.0)).receipt.version == 1
    intake.close()
