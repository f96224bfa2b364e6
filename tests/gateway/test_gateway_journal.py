"""What a gateway that dies had begun, its successor finishes: real processes, real signals."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_client.config import ClientConfig
from fl_client.sealing import submit_messages
from fl_client.updates import LocalUpdate
from fl_client.uploader import SealedUploader
from fl_protocol.codes import AsynclaveError, GatewayUnavailable, StorageFailed
from fl_protocol.envelope import SealedUpdate
from fl_protocol.ports import LocalDisk, SystemRng
from fl_server.durable.journal import Journal
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.layout import Layout
from strategies.update import Vector, digest_of
from tests.support.processes import kill, lives, wait_until
from tests.support.sealed import (
    LAYOUT,
    RECIPE,
    TASK,
    K,
    audit_lines,
    client,
    initial,
    offer,
    open_run,
    sealed_by,
    submit,
    trained,
)

RUN = "journal"
# Sealed, it fits into no socket: an enclave that stands still has not got it whole.
LARGE = 4_000_000
SETTINGS = StackSettings(recipe=RECIPE, k=K, node_patience=20.0, run_patience=5.0)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    with LocalStack(tmp_path, SETTINGS) as stack:
        yield stack


def large_run(stack: LocalStack) -> SealedIntake:
    zeros = np.zeros(LARGE, np.float32)
    intake = SealedIntake(stack.server_config(), RECIPE, watch_interval=3600)
    intake.open(RUN, Layout.of({"weight": zeros}), zeros)
    return intake


def large(delta: float) -> LocalUpdate:
    zeros = np.zeros(LARGE, np.float32)
    layout = Layout.of({"weight": zeros})
    vector: Vector = np.full(LARGE, delta, np.float32)
    return LocalUpdate(RUN, 0, digest_of(zeros), layout.digest, TASK, vector, 10)


def impatient(stack: LocalStack, name: str) -> SealedUploader:
    """A client that soon gives up, so that only the gateway can finish what it began."""
    config = ClientConfig.load(stack.client_config(name))
    uploader = SealedUploader(dataclasses.replace(config, patience=0.2))
    uploader._session.enrol()
    return uploader


def journalled(stack: LocalStack) -> int:
    return sum(path.stat().st_size for path in stack.journal_dir.glob("*.journal"))


def taken_up(stack: LocalStack) -> list[tuple[str, str]]:
    """Return code and trace of the updates that a gateway found in its journal."""
    lines = map(json.loads, audit_lines(stack).splitlines())
    return [
        (line["code"], line["trace_id"])
        for line in lines
        if line["event"] == "SubmitUpdate" and line.get("detail", "").startswith("update ")
    ]


def trace_of(sealed: SealedUpdate) -> str:
    return str(json.loads(sealed.protected)["trace_id"])


class Interrupted:
    """An update that a gateway has kept, and whose enclave has not answered when both stop."""

    def __init__(self, stack: LocalStack) -> None:
        self.uploader = impatient(stack, "unlucky")
        self.sealed, self.membership = sealed_by(self.uploader, large(1.0))
        os.kill(stack.enclave_pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            upload = pool.submit(submit, self.uploader, self.sealed, self.membership)
            wait_until(lambda: journalled(stack) > 4 * LARGE)
            kill(stack.gateway_pid)
            with pytest.raises(GatewayUnavailable):
                upload.result(60)


def test_a_restarted_gateway_finishes_what_it_had_begun(stack: LocalStack) -> None:
    intake = large_run(stack)
    interrupted = Interrupted(stack)
    os.kill(stack.enclave_pid, signal.SIGCONT)
    stack.restart_gateway()
    assert taken_up(stack) == [("OK", trace_of(interrupted.sealed))]
    second = client(stack, "second").upload(large(3.0))
    assert second.receipt.version == 1
    assert offer(intake, "2", second).accepted
    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_array_equal(merge.params, np.full(LARGE, 2.0, np.float32))
    # Its sender gets the receipt that nobody had been there to hear.
    receipts = [submit(interrupted.uploader, interrupted.sealed, interrupted.membership)]
    receipts += [submit(interrupted.uploader, interrupted.sealed, interrupted.membership)]
    assert receipts[0].payload == receipts[1].payload
    found = json.loads(receipts[0].payload)
    assert (found["outcome"], found["version"], found["seq"]) == ("accepted", 0, 1)
    stack.restart_gateway()
    assert len(taken_up(stack)) == 1
    intake.close()


def test_a_restarted_gateway_drops_what_a_client_that_was_revoked_had_begun(
    stack: LocalStack,
) -> None:
    intake = large_run(stack)
    interrupted = Interrupted(stack)
    stack.revoke("client", interrupted.uploader._session.enrol().client_id)
    os.kill(stack.enclave_pid, signal.SIGCONT)
    stack.restart_gateway()
    assert taken_up(stack) == [("TOKEN_REVOKED", trace_of(interrupted.sealed))]
    stack.restart_gateway()
    assert len(taken_up(stack)) == 1
    intake.close()


def test_without_what_is_in_the_journal_it_is_left_to_its_sender(stack: LocalStack) -> None:
    intake = large_run(stack)
    Interrupted(stack)
    shutil.rmtree(stack.journal_dir)
    os.kill(stack.enclave_pid, signal.SIGCONT)
    stack.restart_gateway()
    assert taken_up(stack) == []
    assert client(stack, "second").upload(large(3.0)).receipt.version == 0
    assert client(stack, "third").upload(large(3.0)).receipt.version == 1
    intake.close()


def test_a_gateway_may_do_without_a_journal(tmp_path: Path) -> None:
    with LocalStack(tmp_path, dataclasses.replace(SETTINGS, journal=False)) as stack:
        intake = open_run(stack, RUN, watch_interval=3600)
        assert client(stack, "node").upload(trained(RUN, 1.0)).receipt.outcome == "accepted"
        assert not stack.journal_dir.exists()
        intake.close()


def test_what_was_sealed_to_a_dead_enclave_is_dropped_with_a_record(stack: LocalStack) -> None:
    intake = large_run(stack)
    interrupted = Interrupted(stack)
    kill(stack.enclave_pid)
    stack.restart_gateway()
    assert taken_up(stack) == [("JOURNAL_EPOCH_GONE", trace_of(interrupted.sealed))]
    stack.restart_gateway()
    assert len(taken_up(stack)) == 1
    intake.close()


def test_a_gateway_told_to_stop_leaves_what_it_cannot_finish(stack: LocalStack) -> None:
    intake = large_run(stack)
    uploader = impatient(stack, "unlucky")
    sealed, membership = sealed_by(uploader, large(1.0))
    os.kill(stack.enclave_pid, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        upload = pool.submit(submit, uploader, sealed, membership)
        wait_until(lambda: journalled(stack) > 4 * LARGE)
        gateway = stack.gateway_pid
        restarted = pool.submit(stack.restart_gateway)
        with pytest.raises(AsynclaveError):
            upload.result(60)
        wait_until(lambda: not lives(gateway))
        os.kill(stack.enclave_pid, signal.SIGCONT)
        restarted.result(60)
    assert taken_up(stack) == [("OK", trace_of(sealed))]
    assert client(stack, "second").upload(large(3.0)).receipt.version == 1
    intake.close()


def test_an_answered_update_that_is_handed_in_again_counts_once(stack: LocalStack) -> None:
    intake = open_run(stack, RUN, watch_interval=3600)
    uploader = client(stack, "first")
    sealed, membership = sealed_by(uploader, trained(RUN, 1.0))
    before = submit(uploader, sealed, membership)
    kill(stack.gateway_pid)
    # As if the power had taken the note that it was answered along.
    journal = Journal(stack.journal_dir, LocalDisk(), SystemRng())
    entry = next(journal.entries())
    journal.append(entry.meta, [journal.read(entry)])
    journal.sync()
    journal.close()
    stack.restart_gateway()
    # Twice, if the gateway was killed before it had noted its answer.
    assert set(taken_up(stack)) == {("OK", trace_of(sealed))}
    after = submit(uploader, sealed, membership)
    assert (after.payload, after.signature) == (before.payload, before.signature)
    second = client(stack, "second").upload(trained(RUN, 3.0))
    assert (second.receipt.version, second.receipt.seq) == (1, 2)
    intake.close()


def test_a_gateway_killed_between_acknowledgements_loses_none(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, buffer_size=5)
    settings = dataclasses.replace(SETTINGS, recipe=recipe, k=5)
    with LocalStack(tmp_path, settings) as stack:
        intake = SealedIntake(stack.server_config(), recipe, watch_interval=3600)
        intake.open(RUN, LAYOUT, initial())
        sent = []
        for number in range(4):
            uploader = client(stack, f"node-{number}")
            sealed, membership = sealed_by(uploader, trained(RUN, float(number)))
            sent.append((uploader, sealed, membership, submit(uploader, sealed, membership)))
            kill(stack.gateway_pid)
            stack.restart_gateway()
        for uploader, sealed, membership, before in sent:
            again = submit(uploader, sealed, membership)
            assert (again.payload, again.signature) == (before.payload, before.signature)
        last = client(stack, "last").upload(trained(RUN, 4.0))
        assert last.receipt.version == 1
        assert offer(intake, "last", last).accepted
        merge = intake.take_merge()
        assert merge is not None
        np.testing.assert_allclose(merge.params, initial() + 2.0)
        intake.close()


def test_an_upload_cut_off_in_the_middle_changes_nothing(stack: LocalStack) -> None:
    intake = large_run(stack)
    uploader = impatient(stack, "cut-off")
    sealed, membership = sealed_by(uploader, large(1.0))
    half_way, killed = threading.Event(), threading.Event()

    def messages() -> Iterator[Any]:
        for number, message in enumerate(submit_messages(sealed, membership)):
            if number == 8:
                half_way.set()
                assert killed.wait(30)
            yield message

    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(uploader._session.call, "SubmitUpdate", messages)
        assert half_way.wait(30)
        os.kill(stack.gateway_pid, signal.SIGKILL)
        killed.set()
        with pytest.raises(GatewayUnavailable):
            upload.result(60)
    stack.restart_gateway()
    assert taken_up(stack) == []
    again = client(stack, "cut-off")
    receipts = [submit(again, sealed, membership) for _ in range(2)]
    assert receipts[0].payload == receipts[1].payload
    assert json.loads(receipts[0].payload)["seq"] == 1
    assert client(stack, "second").upload(large(3.0)).receipt.version == 1
    intake.close()


def test_a_full_disk_refuses_uploads_and_the_gateway_serves_on(stack: LocalStack) -> None:
    intake = large_run(stack)
    uploader = client(stack, "early")
    sealed, membership = sealed_by(uploader, large(1.0))
    _, hard = resource.prlimit(stack.gateway_pid, resource.RLIMIT_FSIZE)
    # Writes beyond it fail as on a disk without room; the audit log stays well below.
    resource.prlimit(stack.gateway_pid, resource.RLIMIT_FSIZE, (4 << 20, hard))
    with pytest.raises(StorageFailed, match=r"^JOURNAL_FULL"):
        submit(uploader, sealed, membership)
    gateway = stack.gateway_pid
    assert intake.attested.epoch == uploader._connection.attestor.refresh().epoch
    resource.prlimit(gateway, resource.RLIMIT_FSIZE, (hard, hard))
    receipt = json.loads(submit(uploader, sealed, membership).payload)
    # The record behind the opening: the enclave had seen nothing of the first attempt.
    assert (receipt["outcome"], receipt["seq"]) == ("accepted", 1)
    assert stack.gateway_pid == gateway
    intake.close()


def test_a_damaged_journal_is_named_and_nothing_is_served(stack: LocalStack) -> None:
    open_run(stack, RUN, watch_interval=3600).close()
    client(stack, "first").upload(trained(RUN, 1.0))
    client(stack, "second").upload(trained(RUN, 1.0))
    kill(stack.gateway_pid)
    (path,) = stack.journal_dir.glob("*.journal")
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"damaged")
    with pytest.raises(GatewayUnavailable, match=r"JOURNAL_DAMAGED: .* Move the folder away"):
        stack.restart_gateway()
    stack.journal_dir.rename(stack.state_dir / "aside")
    stack.restart_gateway()


def test_a_gateway_told_to_stop_writes_down_the_calls_it_leaves(stack: LocalStack) -> None:
    intake = large_run(stack)
    uploader = impatient(stack, "left")
    sealed, membership = sealed_by(uploader, large(1.0))
    os.kill(stack.enclave_pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(submit, uploader, sealed, membership)
        wait_until(lambda: journalled(stack) > 4 * LARGE)
        stack.gateways[0].stop()
        with pytest.raises(GatewayUnavailable):
            upload.result(60)
    lines = map(json.loads, audit_lines(stack).splitlines())
    assert ("CANCELLED", trace_of(sealed)) in [(line["code"], line["trace_id"]) for line in lines]
    intake.close()
