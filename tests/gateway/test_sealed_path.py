"""From a client's update to the released model, through real gateway and enclave processes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_client.config import ClientConfig
from fl_client.uploader import SealedUploader
from fl_protocol.codes import (
    AsynclaveError,
    EnvelopeRejected,
    EvidenceRejected,
    RunRejected,
    UpdateRejected,
)
from fl_protocol.ports import SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.intake.config import ServerConfig
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack
from strategies.recipes.fedasync import FedAsync
from strategies.recipes.fedbuff import FedBuff
from strategies.update import digest_of
from tests.support.sealed import (
    LAYOUT,
    RawGateway,
    audit_lines,
    client,
    initial,
    offer,
    open_run,
    sealed_by,
    submit,
    trained,
)

Token = Callable[[str], str]


@pytest.fixture(scope="module")
def clients(stack: LocalStack) -> list[SealedUploader]:
    return [client(stack, f"node-{number}") for number in range(2)]


def test_two_sealed_updates_become_one_verified_release(
    stack: LocalStack, clients: list[SealedUploader]
) -> None:
    intake = open_run(stack, "two-updates")
    first = clients[0].upload(trained("two-updates", 1.0))
    assert first.receipt.outcome == "accepted"
    assert offer(intake, "1", first).accepted
    assert intake.take_merge() is None
    second = clients[1].upload(trained("two-updates", 3.0))
    assert offer(intake, "2", second).accepted
    merge = intake.take_merge()
    assert merge is not None and merge.version == intake.version == 1
    np.testing.assert_allclose(merge.params, initial() + 2.0)
    assert merge.digest == digest_of(merge.params)
    assert intake.take_merge() is None
    intake.close()


def test_the_next_version_is_trained_from_and_staleness_is_counted(
    stack: LocalStack, clients: list[SealedUploader]
) -> None:
    intake = open_run(stack, "staleness")
    for node, uploader in enumerate(clients):
        offer(intake, str(node), uploader.upload(trained("staleness", 1.0)))
    merge = intake.take_merge()
    assert merge is not None
    fresh = clients[0].upload(trained("staleness", 1.0, version=1, base=merge.params))
    assert offer(intake, "0", fresh, version=1).staleness == 0
    late = client(stack, "late").upload(trained("staleness", 1.0))
    assert offer(intake, "9", late).staleness == 1
    assert intake.take_merge() is not None
    intake.close()


def test_releases_missed_by_lost_replies_are_fetched_in_order(
    stack: LocalStack, clients: list[SealedUploader]
) -> None:
    intake = open_run(stack, "lost-replies")
    nodes = [*clients, *(client(stack, name) for name in ("third", "fourth", "fifth"))]
    uploads = [node.upload(trained("lost-replies", 1.0)) for node in nodes]
    assert uploads[-1].receipt.version == 2
    assert offer(intake, "5", uploads[-1]).accepted
    versions = [merge.version for merge in iter(intake.take_merge, None)]
    assert versions == [1, 2]
    intake.close()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"delta": np.full(16, np.nan, np.float32)}, "NONFINITE"),
        ({"delta": np.full(16, np.inf, np.float32)}, "NONFINITE"),
        ({"delta": np.zeros(15, np.float32)}, "WRONG_SHAPE"),
        ({"num_examples": 0}, "BAD_NUM_EXAMPLES"),
        ({"num_examples": -1}, "BAD_NUM_EXAMPLES"),
        ({"num_examples": 10**9}, "BAD_NUM_EXAMPLES"),
        ({"base_version": 7}, "UNKNOWN_BASE_VERSION"),
        ({"base_digest": "0" * 64}, "ENV_MODEL_DIGEST"),
        ({"manifest_digest": "0" * 64}, "ENV_MANIFEST"),
        ({"run_id": "another-run"}, "ENV_RUN"),
    ],
)
def test_refuses_an_update_that_does_not_fit(
    stack: LocalStack, clients: list[SealedUploader], change: dict[str, Any], code: str
) -> None:
    run_id = f"unfit-{SystemRng().bytes(4).hex()}"
    intake = open_run(stack, run_id)
    update = dataclasses.replace(trained(run_id, 1.0), **change)
    with pytest.raises((UpdateRejected, EnvelopeRejected)) as refusal:
        clients[0].upload(update)
    assert refusal.value.code == code
    # The refusal changed nothing: others may still contribute.
    assert clients[1].upload(trained(run_id, 1.0)).receipt.outcome == "accepted"
    intake.close()


def test_refuses_a_second_update_of_a_client_from_one_version(
    stack: LocalStack, clients: list[SealedUploader]
) -> None:
    intake = open_run(stack, "twice")
    submit(clients[0], *sealed_by(clients[0], trained("twice", 1.0)))
    with pytest.raises(UpdateRejected, match=r"^DUPLICATE_UPDATE"):
        submit(clients[0], *sealed_by(clients[0], trained("twice", 1.0)))
    intake.close()


def test_the_same_sealed_update_sent_again_gets_the_same_receipt(
    stack: LocalStack, clients: list[SealedUploader]
) -> None:
    intake = open_run(stack, "resend")
    sealed, membership = sealed_by(clients[0], trained("resend", 1.0))
    first = submit(clients[0], sealed, membership)
    again = submit(clients[0], sealed, membership)
    assert (first.payload, first.signature) == (again.payload, again.signature)
    intake.close()


def test_refuses_a_tampered_update(stack: LocalStack, clients: list[SealedUploader]) -> None:
    intake = open_run(stack, "tampered")
    sealed, membership = sealed_by(clients[0], trained("tampered", 1.0))
    sealed.segments[0][0] ^= 1
    with pytest.raises(EnvelopeRejected, match=r"^ENV_DECRYPT"):
        submit(clients[0], sealed, membership)
    forged = dataclasses.replace(sealed, signature=bytes(64))
    with pytest.raises(EnvelopeRejected, match=r"^ENV_SIGNATURE"):
        submit(clients[0], forged, membership)
    with pytest.raises(EnvelopeRejected, match=r"^ENV_MEMBERSHIP"):
        submit(clients[0], sealed, membership[:-1] + b"x")
    intake.close()


def test_refuses_an_update_that_names_another_client_than_the_token(
    stack: LocalStack, clients: list[SealedUploader]
) -> None:
    intake = open_run(stack, "identity")
    sealed, membership = sealed_by(clients[0], trained("identity", 1.0))
    with pytest.raises(EnvelopeRejected, match=r"^ENV_IDENTITY"):
        submit(clients[1], sealed, membership)
    intake.close()


def test_refuses_a_body_longer_or_shorter_than_announced(
    stack: LocalStack, clients: list[SealedUploader]
) -> None:
    intake = open_run(stack, "length")
    sealed, membership = sealed_by(clients[0], trained("length", 1.0))
    longer = dataclasses.replace(sealed, segments=(*sealed.segments, sealed.segments[0]))
    with pytest.raises(AsynclaveError, match=r"^TOO_LARGE"):
        submit(clients[0], longer, membership)
    with pytest.raises(EnvelopeRejected, match=r"^ENV_LENGTH"):
        submit(clients[0], dataclasses.replace(sealed, segments=()), membership)
    intake.close()


def test_refuses_an_announcement_beyond_the_limit_before_reading(
    raw: RawGateway, token: Token
) -> None:
    server = token("server")
    header = pb.OpenRunRequest(header=pb.OpenRunHeader(run_id="huge", length=10 << 30))
    assert raw.call("OpenRun", iter([header]), server) == "TOO_LARGE"


def test_a_stream_without_a_header_is_malformed(raw: RawGateway, token: Token) -> None:
    good = token("client")
    for messages in ([], [pb.SubmitRequest(segment=b"x")], [pb.SubmitRequest()]):
        assert raw.call("SubmitUpdate", iter(messages), good) == "ENV_MALFORMED"


def test_refuses_a_leaky_recipe_naming_the_reason(stack: LocalStack) -> None:
    intake = SealedIntake(stack.server_config(), FedAsync())
    with pytest.raises(RunRejected, match=r"^LEAKY_RECIPE"):
        intake.open("leaky", LAYOUT, initial())


def test_refuses_a_recipe_that_is_not_the_policys(stack: LocalStack) -> None:
    intake = SealedIntake(stack.server_config(), FedBuff(buffer_size=9))
    with pytest.raises(RunRejected, match=r"^RUN_RECIPE"):
        intake.open("other", LAYOUT, initial())


def test_a_refused_run_with_records_can_be_closed(stack: LocalStack, tmp_path: Path) -> None:
    config = stack.server_config(records=tmp_path / "records")
    intake = SealedIntake(config, FedBuff(buffer_size=9))
    with pytest.raises(RunRejected, match=r"^RUN_RECIPE"):
        intake.open("refused", LAYOUT, initial())
    intake.close()


def test_the_policys_recipe_is_taken_when_none_is_given(stack: LocalStack) -> None:
    intake = SealedIntake(stack.server_config())
    intake.open("policy", LAYOUT, initial())
    assert intake.version == 0
    intake.close()


def _changed(path: Path, **members: Any) -> Path:
    changed = path.with_name("changed.json")
    changed.write_text(json.dumps({**json.loads(path.read_text()), **members}))
    return changed


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"roots_of_trust": []}, "EVIDENCE_SIMULATED_REFUSED"),
        ({"measurements": ["0" * 96]}, "EVIDENCE_MEASUREMENT"),
        ({"guardrails": {"k_min": 50}}, "EVIDENCE_GUARDRAIL"),
        ({"federation": "another"}, "EVIDENCE_POLICY"),
    ],
)
def test_a_node_sends_nothing_to_an_enclave_it_does_not_trust(
    stack: LocalStack, members: dict[str, Any], code: str
) -> None:
    path = stack.client_config(f"wary-{code.lower().replace('_', '-')}")
    wary = SealedUploader(ClientConfig.load(_changed(path, **members)))
    with pytest.raises(EvidenceRejected) as refusal:
        wary.upload(trained("any", 1.0))
    assert refusal.value.code == code
    server = SealedIntake(ServerConfig.load(_changed(stack.server_config(), **members)))
    with pytest.raises(EvidenceRejected):
        server.open("any", LAYOUT, initial())


def test_a_trace_id_ties_the_clients_update_to_the_audit_log(
    stack: LocalStack, clients: list[SealedUploader]
) -> None:
    intake = open_run(stack, "trace")
    sealed, membership = sealed_by(clients[0], trained("trace", 1.0), trace_id="ab" * 16)
    reply = submit(clients[0], sealed, membership)
    assert json.loads(reply.payload)["trace_id"] == "ab" * 16
    (line,) = (json.loads(x) for x in audit_lines(stack).splitlines() if "ab" * 16 in x)
    assert (line["event"], line["code"]) == ("SubmitUpdate", "OK")
    assert line["client"].startswith("node-0-")
    assert "10" not in {str(value) for value in line.values()}
    intake.close()


@pytest.mark.parametrize(
    ("traceparent", "taken"),
    [
        (f"00-{'ef' * 16}-{'1' * 16}-01", True),
        (f"00-{'EF' * 16}-{'1' * 16}-01", False),
        (f"00-{'0' * 32}-{'1' * 16}-01", False),
        (f"ff-{'ef' * 16}-{'1' * 16}-01", False),
        ("x" * 500, False),
    ],
    ids=["valid", "upper case", "zeros", "version ff", "junk"],
)
def test_every_call_has_a_trace_id_its_callers_if_it_sent_one(
    stack: LocalStack, raw: RawGateway, token: Token, traceparent: str, taken: bool
) -> None:
    member = token("client")
    metadata = [
        ("authorization", f"DPoP {member}"),
        ("dpop", raw.proof("GetEvidence", member)),
        ("traceparent", traceparent),
    ]
    request = pb.EvidenceRequest(nonce=bytes(32))
    assert raw.call("GetEvidence", request, metadata=metadata).evidence
    line = json.loads(audit_lines(stack).splitlines()[-1])
    assert (line["trace_id"] == "ef" * 16) is taken
    assert len(line["trace_id"]) == 32


def test_the_chain_is_not_for_clients(raw: RawGateway, token: Token) -> None:
    request = pb.GetRecordsRequest(from_seq=0)
    assert raw.call("GetRecords", request, token("client")) == "TOKEN_SCOPE"
