"""Two gateway processes before one enclave: a node may use either, and either may die."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fl_client.uploader import SealedUploader
from fl_protocol.codes import EnvelopeRejected
from fl_protocol.identity import Identity
from fl_protocol.ports import SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import Standing, verify_release
from fl_protocol.signatures import Signed
from fl_server.stack import LocalStack, StackSettings
from tests.gateway.test_gateway_journal import LARGE, RUN, Interrupted, large, large_run
from tests.support.processes import kill
from tests.support.sealed import (
    RECIPE,
    K,
    RawGateway,
    client,
    initial,
    offer,
    open_run,
    reader_of,
    sealed_by,
    submit,
    trained,
)

SETTINGS = StackSettings(recipe=RECIPE, k=K, gateways=2, node_patience=10.0, run_patience=10.0)
NONCE = bytes(32)
SQLITE = pytest.mark.parametrize("location", ["sqlite"], indirect=True)


@pytest.fixture
def stack(tmp_path: Path, location: str) -> Iterator[LocalStack]:
    registry = location if "://" in location else ""
    with LocalStack(tmp_path / "stack", dataclasses.replace(SETTINGS, registry=registry)) as stack:
        yield stack


@pytest.fixture
def pair(stack: LocalStack) -> Iterator[list[RawGateway]]:
    """One node's calls to each of the gateways."""
    identity = Identity.generate(SystemRng())
    raws = [RawGateway(stack, gateway.address, identity) for gateway in stack.gateways]
    yield raws
    for raw in raws:
        raw.close()


def evidence() -> pb.EvidenceRequest:
    return pb.EvidenceRequest(nonce=NONCE)


@SQLITE
def test_updates_that_come_through_either_gateway_meet_in_one_release(stack: LocalStack) -> None:
    intake = open_run(stack, "either")
    first, second = (
        client(stack, f"node-{number}", gateway.address)
        for number, gateway in enumerate(stack.gateways)
    )
    assert offer(intake, "0", first.upload(trained("either", 1.0))).accepted
    assert offer(intake, "1", second.upload(trained("either", 3.0))).accepted
    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_allclose(merge.params, initial() + 2.0)
    intake.close()


def test_what_is_said_at_one_gateway_holds_at_the_other(
    stack: LocalStack, pair: list[RawGateway]
) -> None:
    one, other = pair
    ticket = stack.ticket("client", "node")
    enrolled = one.enrol(ticket)
    again = other.enrol(ticket)
    assert (again.client_id, again.membership) == (enrolled.client_id, enrolled.membership)
    reply = other.refresh(enrolled.client_id, enrolled.refresh_token)
    token = reply.access_token
    # A reply that was lost is given again by the other one.
    lost = one.refresh(enrolled.client_id, enrolled.refresh_token)
    assert lost.refresh_token == reply.refresh_token
    proof = one.proof("GetEvidence", token)
    assert one.call("GetEvidence", evidence(), token, proof=proof).evidence
    assert other.call("GetEvidence", evidence(), token, proof=proof) == "PROOF_REPLAYED"
    grant = bytes(16)
    assert one.by_identity(enrolled.client_id, grant).access_token
    assert other.by_identity(enrolled.client_id, grant) == "IDENTITY_INVALID"
    # A second use at the first gateway, after the successor was used at the second.
    assert other.refresh(enrolled.client_id, reply.refresh_token).access_token
    assert one.refresh(enrolled.client_id, enrolled.refresh_token) == "REFRESH_REUSED"
    assert other.call("GetEvidence", evidence(), token) == "TOKEN_REVOKED"


def test_a_revocation_is_refused_by_both_at_once_and_after_their_restart(
    stack: LocalStack, pair: list[RawGateway]
) -> None:
    enrolled = pair[0].enrol(stack.ticket("client", "node"))
    token = pair[0].refresh(enrolled.client_id, enrolled.refresh_token).access_token
    assert all(raw.call("GetEvidence", evidence(), token).evidence for raw in pair)
    stack.revoke("client", enrolled.client_id)
    assert [raw.call("GetEvidence", evidence(), token) for raw in pair] == ["TOKEN_REVOKED"] * 2
    for gateway in stack.gateways:
        kill(gateway.pid)
        gateway.start()
    assert [raw.call("GetEvidence", evidence(), token) for raw in pair] == ["TOKEN_REVOKED"] * 2


def test_a_proof_is_remembered_by_a_gateway_that_is_killed(
    stack: LocalStack, pair: list[RawGateway]
) -> None:
    one = pair[0]
    enrolled = one.enrol(stack.ticket("client", "node"))
    token = one.refresh(enrolled.client_id, enrolled.refresh_token).access_token
    proof = one.proof("GetEvidence", token)
    assert one.call("GetEvidence", evidence(), token, proof=proof).evidence
    kill(stack.gateways[0].pid)
    stack.gateways[0].start()
    assert one.call("GetEvidence", evidence(), token, proof=proof) == "PROOF_REPLAYED"


@SQLITE
def test_releases_of_runs_opened_at_the_other_gateway_are_handed_out(stack: LocalStack) -> None:
    """The server speaks with the first gateway; a reader asks the second, which keeps releases."""
    reader, token = reader_of(stack, "reader", stack.gateways[1].address)
    for delta in (1.0, 2.0):
        run_id = f"run-{delta}"
        intake = open_run(stack, run_id)
        for number, gateway in enumerate(stack.gateways):
            client(stack, f"n{number}-{delta}", gateway.address).upload(trained(run_id, delta))
        request = pb.GetReleaseRequest(run_id=run_id, version=1)
        for _ in range(2):
            parts = reader.call("GetRelease", request, token)
            body = b"".join(part.chunk for part in parts)
            signed = Signed(parts[0].header.payload, parts[0].header.signature)
            release = verify_release(signed, intake.attested.receipt_key)
            assert (release.run_id, release.version) == (run_id, 1)
            np.testing.assert_allclose(np.frombuffer(body, np.float32), initial() + delta)
        intake.close()
    reader.close()


@SQLITE
def test_a_gateway_notices_that_a_larger_run_was_opened_at_the_other(stack: LocalStack) -> None:
    node = client(stack, "node", stack.gateways[1].address)
    intake = open_run(stack, "small", watch_interval=3600)
    submit(node, *sealed_by(node, trained("small", 1.0)))
    intake.close()
    intake = large_run(stack)
    submit(node, *sealed_by(node, large(1.0)))
    with pytest.raises(EnvelopeRejected, match="TOO_LARGE"):
        submit(node, *sealed_by(node, trained(RUN, np.zeros(LARGE + 1, np.float32))))
    intake.close()


@SQLITE
def test_both_gateways_follow_an_enclave_that_is_replaced(stack: LocalStack) -> None:
    intake = open_run(stack, "followed", watch_interval=0.1)
    nodes = [client(stack, f"n-{n}", gateway.address) for n, gateway in enumerate(stack.gateways)]
    nodes[0].upload(trained("followed", 1.0))
    kill(stack.enclave_pid)
    settled = nodes[0].settle("followed", trained("followed", 1.0).base_digest)
    assert settled is not None
    assert offer(intake, "0", settled.uploaded).accepted
    assert offer(intake, "1", nodes[1].upload(trained("followed", 3.0))).accepted
    assert intake.version == 1
    intake.close()


@SQLITE
def test_an_update_that_another_gateway_refused_is_not_handed_in_from_a_journal(
    stack: LocalStack,
) -> None:
    intake = large_run(stack)
    interrupted = Interrupted(stack)
    os.kill(stack.enclave_pid, signal.SIGCONT)
    sealed, uploader = interrupted.sealed, interrupted.uploader
    other = SealedUploader(
        dataclasses.replace(uploader._config, gateway=stack.gateways[1].address, patience=20.0)
    )
    spoilt = dataclasses.replace(sealed, signature=bytes(64))
    with pytest.raises(EnvelopeRejected, match="ENV_SIGNATURE"):
        submit(other, spoilt, interrupted.membership)
    stack.restart_gateway()
    lines = map(json.loads, stack.gateways[0].audit_log.read_text().splitlines())
    details = [line["detail"] for line in lines if "update " in line.get("detail", "")]
    assert len(details) == 1 and details[0].endswith("another gateway has refused it since")
    # Nothing was counted of what its node was told that it was not.
    about = json.loads(sealed.protected)
    request = pb.UpdateStatusRequest(
        run_id=about["run_id"], update_id=about["update_id"], nonce=bytes(16)
    )
    status = other._session.call("GetUpdateStatus", request)
    assert json.loads(status.status.payload)["state"] == Standing.UNKNOWN
    receipt = json.loads(submit(other, sealed, interrupted.membership).payload)
    assert receipt["outcome"] == "accepted"
    intake.close()
