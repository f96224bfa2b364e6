"""An update that an enclave took with it is delivered again, and counts once."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynclave.verification.audit import audit
from fl_client.config import ClientConfig
from fl_client.uploader import SealedUploader
from fl_protocol.codes import (
    Code,
    GatewayUnavailable,
    ReceiptRejected,
    RunRejected,
    UpdateRejected,
)
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.update import digest_of
from tests.support.processes import kill
from tests.support.sealed import (
    LAYOUT,
    RECIPE,
    K,
    client,
    initial,
    offer,
    trained,
)

RUN = "redelivered"
SETTINGS = StackSettings(recipe=RECIPE, k=K, node_patience=5.0, run_patience=10.0)
BASE = digest_of(initial())


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    with LocalStack(tmp_path / "stack", SETTINGS) as stack:
        yield stack


@pytest.fixture
def intake(stack: LocalStack, tmp_path: Path) -> Iterator[SealedIntake]:
    intake = SealedIntake(
        stack.server_config(), RECIPE, state_folder=tmp_path / "run", watch_interval=0.1
    )
    intake.open(RUN, LAYOUT, initial())
    yield intake
    intake.close()


def kept(uploader: SealedUploader) -> list[str]:
    return [k.update_id for k in uploader.outbox.of(RUN)]


def accepted(folder: Path) -> list[str]:
    lines = (folder / "receipts.jsonl").read_bytes().splitlines()
    records = [json.loads(json.loads(line)["payload"]) for line in lines]
    return [r["update_id"] for r in records if r.get("outcome") == "accepted"]


def test_what_a_dead_enclave_had_buffered_is_delivered_again_under_its_id(
    stack: LocalStack, intake: SealedIntake, tmp_path: Path
) -> None:
    first = client(stack, "first").upload(trained(RUN, 1.0), {"train": {"loss": 0.5}})
    kill(stack.enclave_pid)
    # Another process of the same node, before it works on its next task.
    node = client(stack, "first")
    settled = node.settle(RUN, BASE)
    assert settled is not None
    receipt = settled.uploaded.receipt
    assert receipt.update_id == first.receipt.update_id
    assert receipt.epoch > first.receipt.epoch and receipt.outcome == "accepted"
    assert settled.metrics == {"train": {"loss": 0.5}}
    assert offer(intake, "1", settled.uploaded).accepted
    assert offer(intake, "2", client(stack, "second").upload(trained(RUN, 3.0))).accepted
    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_allclose(merge.params, initial() + 2.0)
    assert node.settle(RUN, BASE) is None and kept(node) == []
    intake.close()
    found = audit(tmp_path / "run")
    assert (found.flaw, found.version) == (None, 1)
    # The server never saw what the dead enclave had signed about it.
    assert accepted(tmp_path / "run").count(first.receipt.update_id) == 1


def test_a_buffer_that_a_known_update_fills_is_fetched(
    stack: LocalStack, intake: SealedIntake
) -> None:
    first = client(stack, "first").upload(trained(RUN, 1.0))
    assert offer(intake, "1", first).accepted
    kill(stack.enclave_pid)
    second = client(stack, "second").upload(trained(RUN, 3.0))
    assert offer(intake, "2", second).accepted
    settled = client(stack, "first").settle(RUN, BASE)
    assert settled is not None and settled.uploaded.receipt.version == 1
    again = offer(intake, "1", settled.uploaded)
    assert (again.accepted, again.code) == (False, "DUPLICATE_UPDATE")
    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_allclose(merge.params, initial() + 2.0)


def test_a_buffered_update_is_neither_sent_nor_trained_again(
    stack: LocalStack, intake: SealedIntake
) -> None:
    node = client(stack, "node")
    uploaded = node.upload(trained(RUN, 1.0))
    settled = client(stack, "node").settle(RUN, BASE)
    assert settled is not None
    assert settled.uploaded.signed == uploaded.signed
    assert kept(node) == [uploaded.receipt.update_id]


def test_until_its_update_is_released_a_node_contributes_to_no_other_model(
    stack: LocalStack, intake: SealedIntake
) -> None:
    node = client(stack, "node")
    node.upload(trained(RUN, 1.0))
    with pytest.raises(UpdateRejected, match="CLIENT_QUOTA"):
        node.settle(RUN, "f" * 64)
    client(stack, "other").upload(trained(RUN, 1.0))
    intake.catch_up()
    assert node.settle(RUN, "f" * 64) is None


def test_an_update_that_may_be_taken_later_bars_its_node_from_other_models(
    stack: LocalStack, intake: SealedIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = client(stack, "first")
    uploaded = node.upload(trained(RUN, 1.0))
    kill(stack.enclave_pid)

    def not_open_yet(*arguments: object) -> Any:
        raise RunRejected(Code.RUN_UNKNOWN)

    with monkeypatch.context() as between:
        between.setattr(SealedUploader, "_submitted", not_open_yet)
        with pytest.raises(RunRejected, match="RUN_UNKNOWN"):
            node.settle(RUN, "0" * 64)
    assert kept(node) == [uploaded.receipt.update_id]
    settled = node.settle(RUN, BASE)
    assert settled is not None and settled.uploaded.receipt.outcome == "accepted"


def test_a_released_update_is_forgotten_even_after_its_enclave_died(
    stack: LocalStack, intake: SealedIntake
) -> None:
    nodes = [client(stack, f"node-{number}") for number in range(K)]
    for number, node in enumerate(nodes):
        assert offer(intake, str(number), node.upload(trained(RUN, 1.0))).accepted
    assert intake.version == 1
    kill(stack.enclave_pid)
    assert [node.settle(RUN, BASE) for node in nodes] == [None, None]
    assert [kept(node) for node in nodes] == [[], []]


def test_a_release_that_nobody_had_is_undone_and_its_updates_are_delivered_again(
    stack: LocalStack, intake: SealedIntake
) -> None:
    nodes = [client(stack, f"node-{number}") for number in range(K)]
    for node in nodes:
        node.upload(trained(RUN, 1.0))
    kill(stack.enclave_pid)
    for number, node in enumerate(nodes):
        settled = node.settle(RUN, BASE)
        assert settled is not None
        assert offer(intake, str(number), settled.uploaded).accepted
    merge = intake.take_merge()
    assert merge is not None and merge.version == 1
    np.testing.assert_allclose(merge.params, initial() + 1.0)


def test_an_update_that_could_not_be_delivered_waits_for_the_gateway(
    stack: LocalStack, intake: SealedIntake
) -> None:
    config = dataclasses.replace(ClientConfig.load(stack.client_config("offline")), patience=0.5)
    node = SealedUploader(config)
    node._session.enrol()
    os.kill(stack.gateway_pid, signal.SIGKILL)
    with pytest.raises(GatewayUnavailable):
        node.upload(trained(RUN, 1.0))
    (update_id,) = kept(node)
    stack.restart_gateway()
    settled = SealedUploader(dataclasses.replace(config, patience=20.0)).settle(RUN, BASE)
    assert settled is not None
    assert settled.uploaded.receipt.update_id == update_id
    assert settled.uploaded.receipt.outcome == "accepted"


def test_an_update_that_has_become_too_old_is_refused_for_good(
    stack: LocalStack, intake: SealedIntake
) -> None:
    late = client(stack, "late")
    lost = trained(RUN, 1.0, version=7)
    with pytest.raises(Exception, match=r"UNKNOWN_BASE_VERSION|ENV_MODEL_DIGEST"):
        late.upload(lost)
    assert kept(late) == []


def test_a_lying_gateway_cannot_make_a_node_forget(stack: LocalStack, intake: SealedIntake) -> None:
    node = client(stack, "node")
    node.upload(trained(RUN, 1.0))
    call = node._session.call
    answers: list[Any] = []

    def replayed(method: str, *arguments: Any, **options: Any) -> Any:
        if method != "GetUpdateStatus":
            return call(method, *arguments, **options)
        answers.append(call(method, *arguments, **options))
        return answers[0]

    node._session.call = replayed  # type: ignore[method-assign]
    assert node.settle(RUN, BASE) is not None
    with pytest.raises(ReceiptRejected):
        node.settle(RUN, BASE)
    other = client(stack, "other")
    foreign = other._session.call(
        "GetUpdateStatus",
        pb.UpdateStatusRequest(run_id=RUN, update_id=kept(node)[0], nonce=bytes(16)),
    )
    assert json.loads(foreign.status.payload)["state"] == "unknown"
    assert not foreign.HasField("receipt")
