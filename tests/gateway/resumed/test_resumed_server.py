"""What survives the death of a gateway or of a server, and what a new server takes up."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asynclave.verification.audit import audit
from fl_server.stack import LocalStack
from tests.gateway.resumed.support import RUN, SETTINGS, abandon, fill_buffer, server
from tests.support.processes import kill
from tests.support.sealed import K, client, initial, offer, open_run, sealed_by, submit, trained


def test_a_killed_gateway_does_not_cost_what_the_enclave_has_buffered(stack: LocalStack) -> None:
    intake = open_run(stack, RUN, watch_interval=3600)
    first, second = client(stack, "first"), client(stack, "second")
    sealed, membership = sealed_by(first, trained(RUN, 1.0))
    before = submit(first, sealed, membership)
    epoch, enclave = intake.attested.epoch, stack.enclave_pid
    os.kill(stack.gateway_pid, signal.SIGKILL)
    stack.restart_gateway()
    again = submit(first, sealed, membership)
    assert (again.payload, again.signature) == (before.payload, before.signature)
    uploaded = second.upload(trained(RUN, 3.0))
    assert (uploaded.receipt.version, uploaded.receipt.epoch) == (1, epoch)
    assert stack.enclave_pid == enclave
    assert offer(intake, "2", uploaded).accepted
    merge = intake.take_merge()
    assert merge is not None
    np.testing.assert_allclose(merge.params, initial() + 2.0)
    intake.close()


def test_a_server_takes_its_run_up_with_what_is_buffered(stack: LocalStack, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    nodes = [client(stack, f"node-{number}") for number in range(3)]
    for number in range(2):
        assert offer(intake, str(number), nodes[number].upload(trained(RUN, 1.0))).accepted
    merge = intake.take_merge()
    assert merge is not None
    # One update waits in the enclave when the server dies.
    nodes[0].upload(trained(RUN, 4.0, version=1, base=merge.params))
    abandon(intake)

    again = server(stack, folder)
    assert (again.version, again.attested.epoch) == (1, intake.attested.epoch)
    np.testing.assert_array_equal(again.params, merge.params)
    uploaded = nodes[1].upload(trained(RUN, 2.0, version=1, base=merge.params))
    assert offer(again, "1", uploaded, version=1).accepted
    second = again.take_merge()
    assert second is not None and second.version == 2
    np.testing.assert_allclose(second.params, merge.params + 3.0)
    again.close()
    found = audit(folder)
    assert (found.flaw, found.accepted, found.version) == (None, 4, 2)


def test_versions_made_while_no_server_was_there_are_fetched(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    abandon(intake)
    for number in range(K):
        client(stack, f"node-{number}").upload(trained(RUN, 1.0))
    again = server(stack, folder)
    assert (again.version, again.take_merge()) == (1, None)
    np.testing.assert_allclose(again.params, initial() + 1.0)
    again.close()
    assert audit(folder).flaw is None


def test_if_the_enclave_died_as_well_the_run_goes_on_at_the_newest_model(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    nodes = [client(stack, f"node-{number}") for number in range(K)]
    for number, node in enumerate(nodes):
        assert offer(intake, str(number), node.upload(trained(RUN, 1.0))).accepted
    abandon(intake)
    kill(stack.enclave_pid)

    again = server(stack, folder)
    assert again.version == 1 and again.attested.epoch > intake.attested.epoch
    base = again.params
    for number, node in enumerate(nodes):
        uploaded = node.upload(trained(RUN, 1.0, version=1, base=base))
        assert offer(again, str(number), uploaded, version=1).accepted
    assert again.version == 2
    again.close()
    found = audit(folder)
    assert (found.flaw, found.version, len(found.enclaves)) == (None, 2, 2)


def test_a_server_that_died_before_the_first_release_goes_on(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    abandon(server(stack, folder))
    with (folder / "receipts.jsonl").open("ab") as chain:
        chain.write(b'{"payload":"torn')
    kill(stack.enclave_pid)
    again = server(stack, folder)
    fill_buffer(stack, again)
    assert again.version == 1
    again.close()
    assert audit(folder).flaw is None


def older_copy(stack: LocalStack, tmp_path: Path) -> Path:
    """A copy of a run's folder from before its first release; the run was cut off after it."""
    folder, copy = tmp_path / "run", tmp_path / "copy"
    intake = server(stack, folder)
    shutil.copytree(folder, copy)
    fill_buffer(stack, intake)
    abandon(intake)
    return copy


def test_an_older_copy_of_the_folder_is_taken_up_and_completed_while_the_enclave_lives(
    stack: LocalStack, tmp_path: Path
) -> None:
    copy = older_copy(stack, tmp_path)
    again = server(stack, copy)
    assert again.version == 1
    again.close()
    assert audit(copy).flaw is None


def test_an_older_copy_goes_on_from_the_newest_release_and_what_it_lacks_is_named(
    stack: LocalStack, tmp_path: Path
) -> None:
    copy = older_copy(stack, tmp_path)
    kill(stack.enclave_pid)
    again = server(stack, copy)
    assert again.version == 1
    again.close()
    found = audit(copy).flaw
    assert found is not None and found.kind == "removed"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_server_takes_up_a_run_whose_enclave_knows_its_model_no_more(
    tmp_path: Path, replaced: bool
) -> None:
    with LocalStack(tmp_path / "stack", replace(SETTINGS, max_staleness=1)) as stack:
        folder = tmp_path / "run"
        intake = server(stack, folder)
        nodes = [client(stack, f"node-{number}") for number in range(2 * K)]
        abandon(intake)
        receipts = [node.upload(trained(RUN, 1.0)).receipt for node in nodes]
        assert receipts[-1].version == 2
        again = server(stack, folder)
        assert again.version == 2
        abandon(again)
        if replaced:
            kill(stack.enclave_pid)
        last = server(stack, folder)
        assert last.version == 2
        last.close()
        assert audit(folder).flaw is None


def test_a_run_is_taken_up_again_and_again_after_another_was_in_its_enclave(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    abandon(server(stack, folder))
    open_run(stack, "another").close()
    for _ in range(2):
        again = server(stack, folder)
        assert again.attested.epoch == 1
        again.close()
    assert audit(folder).flaw is None
