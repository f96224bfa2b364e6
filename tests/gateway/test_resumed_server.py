"""What survives the death of a gateway or of a server, and what a new server takes up."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asynclave.verification.audit import audit
from fl_protocol.codes import StorageFailed
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.durable.checkpoint import encode_state
from fl_server.intake.continued import read_folder
from fl_server.intake.keeper import free_folder
from fl_server.intake.records import CHAIN, MODEL, SERVER, TRUST, of_a_run
from fl_server.intake.records import LAYOUT as MANIFEST
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.layout import Layout
from tee_sim.appraisal import TrustPolicy
from tests.support.disk import MemoryDisk
from tests.support.processes import kill
from tests.support.sealed import (
    LAYOUT,
    RECIPE,
    K,
    client,
    initial,
    offer,
    open_run,
    reader_of,
    sealed_by,
    submit,
    trained,
)

RUN = "kept"
SETTINGS = StackSettings(recipe=RECIPE, k=K, node_patience=20.0, run_patience=10.0)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    with LocalStack(tmp_path / "stack", SETTINGS) as stack:
        yield stack


def server(stack: LocalStack, folder: Path, **options: object) -> SealedIntake:
    intake = SealedIntake(
        stack.server_config(), RECIPE, state_folder=folder, watch_interval=3600, **options
    )
    intake.open(RUN, LAYOUT, initial())
    return intake


def abandon(intake: SealedIntake) -> None:
    """Let go of a server as a kill would: without a word to anybody."""
    intake._stopped.set()
    intake._stack.close()


@contextmanager
def no_room(longest: int) -> Iterator[None]:
    """Let no file of this process grow beyond a length in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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


def test_what_a_full_disk_kept_from_being_written_is_written_later(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    nodes = [client(stack, f"node-{number}") for number in range(K)]
    uploaded = [node.upload(trained(RUN, 1.0)) for node in nodes]
    assert offer(intake, "0", uploaded[0]).accepted
    with (
        no_room((folder / CHAIN).stat().st_size),
        pytest.raises(StorageFailed, match="JOURNAL_FULL"),
    ):
        offer(intake, "1", uploaded[1])
    assert (intake.version, intake.take_merge()) == (0, None)
    intake.catch_up()
    merge = intake.take_merge()
    assert merge is not None and merge.version == 1
    intake.close()
    found = audit(folder)
    assert (found.flaw, found.accepted, found.version) == (None, K, 1)


class ModelsFindNoRoom(MemoryDisk):
    """A disk on which everything can be written but models."""

    full = True

    def write_atomic(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        if self.full and path.name == MODEL:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write_atomic(path, data, mode)


def test_a_release_that_could_not_be_kept_is_fetched_again_without_another_receipt(
    stack: LocalStack, tmp_path: Path
) -> None:
    disk = ModelsFindNoRoom()
    disk.full = False
    intake = server(stack, tmp_path / "run", disk=disk)
    nodes = [client(stack, f"node-{number}") for number in range(K)]
    uploaded = [node.upload(trained(RUN, 1.0)) for node in nodes]
    assert offer(intake, "0", uploaded[0]).accepted
    disk.full = True
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        offer(intake, "1", uploaded[1])
    assert (intake.version, intake.take_merge()) == (0, None)
    disk.full = False
    intake.follow_enclave()
    merge = intake.take_merge()
    assert merge is not None and merge.version == intake.version == 1
    intake.close()


def test_a_successor_that_could_not_be_written_down_is_followed_later(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    epoch = intake.attested.epoch
    kill(stack.enclave_pid)
    with no_room(10), pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        intake.follow_enclave()
    intake.follow_enclave()
    assert offer(intake, "0", client(stack, "node").upload(trained(RUN, 1.0))).accepted
    intake.close()
    found = audit(folder)
    assert (found.flaw, found.accepted) == (None, 1)
    assert intake.attested.epoch == epoch + 1


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
    for number in range(K):
        uploaded = client(stack, f"node-{number}").upload(trained(RUN, 1.0))
        assert offer(again, str(number), uploaded).accepted
    assert again.version == 1
    again.close()
    assert audit(folder).flaw is None


def test_an_older_copy_of_the_folder_is_taken_up_and_completed_while_the_enclave_lives(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder, copy = tmp_path / "run", tmp_path / "copy"
    intake = server(stack, folder)
    shutil.copytree(folder, copy)
    for number in range(K):
        uploaded = client(stack, f"node-{number}").upload(trained(RUN, 1.0))
        assert offer(intake, str(number), uploaded).accepted
    abandon(intake)
    again = server(stack, copy)
    assert again.version == 1
    again.close()
    assert audit(copy).flaw is None


def test_an_older_copy_goes_on_from_the_newest_release_and_what_it_lacks_is_named(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder, copy = tmp_path / "run", tmp_path / "copy"
    intake = server(stack, folder)
    shutil.copytree(folder, copy)
    for number in range(K):
        uploaded = client(stack, f"node-{number}").upload(trained(RUN, 1.0))
        assert offer(intake, str(number), uploaded).accepted
    abandon(intake)
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


def test_a_release_that_somebody_else_fetched_first_is_not_lost_with_its_enclave(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    nodes = [client(stack, f"node-{number}") for number in range(K)]
    for node in nodes:
        node.upload(trained(RUN, 1.0))
    reader, token = reader_of(stack, "reader")
    assert reader.call("GetRelease", pb.GetReleaseRequest(run_id=RUN, version=1), token)[0].header
    reader.close()
    kill(stack.enclave_pid)
    intake.follow_enclave()
    assert intake.version == 1
    intake.close()


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


def release_lost_on_its_way(stack: LocalStack, intake: SealedIntake) -> None:
    """Let the enclave hand a release out, lose it, and end the enclave."""
    for number in range(K):
        client(stack, f"node-{number}").upload(trained(RUN, 1.0))
    keeper = intake._opened.keeper
    assert keeper is not None
    keeper.fetch()
    request = pb.GetReleaseRequest(run_id=RUN, version=1)
    intake._connection.session.receive("GetRelease", request, lambda replies: list(replies))
    # The gateway may be lost with it.
    stack.restart_gateway()
    kill(stack.enclave_pid)


def test_a_release_that_was_lost_on_its_way_is_handed_out_again(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    release_lost_on_its_way(stack, intake)
    intake.follow_enclave()
    merge = intake.take_merge()
    assert merge is not None and merge.version == intake.version == 1
    np.testing.assert_allclose(merge.params, initial() + 1.0)
    for number in range(K):
        node = client(stack, f"node-{number}")
        assert node.settle(RUN, "") is None
        uploaded = node.upload(trained(RUN, 1.0, version=1, base=merge.params))
        assert offer(intake, str(number), uploaded, version=1).accepted
    intake.close()
    found = audit(folder)
    assert (found.flaw, found.version) == (None, 2)


def test_a_server_that_died_as_well_gets_the_lost_release(
    stack: LocalStack, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    release_lost_on_its_way(stack, intake)
    abandon(intake)
    again = server(stack, folder)
    assert again.version == 1
    np.testing.assert_allclose(again.params, initial() + 1.0)
    again.close()
    assert audit(folder).flaw is None


def test_a_folder_in_use_or_of_another_run_is_refused(stack: LocalStack, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    intake = server(stack, folder)
    with pytest.raises(StorageFailed, match="STATE_IN_USE"):
        server(stack, folder)
    intake.close()
    other = SealedIntake(stack.server_config(), RECIPE, state_folder=folder)
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*holds the run kept"):
        other.open("another", LAYOUT, initial())
    other.close()
    layout = Layout.of({"weight": np.zeros(3, np.float32)})
    with pytest.raises(StorageFailed, match=r"STATE_MISMATCH.*another layout"):
        SealedIntake(stack.server_config(), RECIPE, state_folder=folder).open(
            RUN, layout, np.zeros(3, np.float32)
        )


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalStack, Path]]:
    """The folder that a server left which was killed at version 1."""
    folder = tmp_path_factory.mktemp("left")
    with LocalStack(folder / "stack", SETTINGS) as stack:
        intake = server(stack, folder / "run")
        for number in range(K):
            uploaded = client(stack, f"node-{number}").upload(trained(RUN, 1.0))
            assert offer(intake, str(number), uploaded).accepted
        abandon(intake)
        yield stack, folder / "run"


def contents(folder: Path) -> dict[str, bytes]:
    """Files of the records; the lock is none of them."""
    return {name: (folder / name).read_bytes() for name in of_a_run(os.listdir(folder))}


def refused(stack: LocalStack, folder: Path) -> str:
    """Start a server on a folder that holds no run as a whole; it must not change anything."""
    before = contents(folder)
    with pytest.raises(StorageFailed) as caught:
        server(stack, folder)
    assert contents(folder) == before
    assert caught.value.code == "LEDGER_DAMAGED"
    return caught.value.sentence


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ([CHAIN], CHAIN),
        ([MANIFEST], MANIFEST),
        ([MODEL], MODEL),
        ([CHAIN, MANIFEST], CHAIN),
        ([CHAIN, MANIFEST, TRUST, SERVER, "head-1.json", "evidence-1.json"], CHAIN),
        ([MANIFEST, TRUST, SERVER, "head-1.json", "evidence-1.json"], MANIFEST),
    ],
)
def test_a_part_of_a_run_is_refused_and_left_as_it_is(
    left: tuple[LocalStack, Path], tmp_path: Path, gone: list[str], named: str
) -> None:
    stack, whole = left
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in gone:
        (folder / name).unlink()
    assert f"{named} is missing" in refused(stack, folder)


def test_a_server_that_died_while_it_began_a_run_begins_it_again(tmp_path: Path) -> None:
    layout = Layout.of({"weight": np.zeros(3, np.float32)})
    for number, names in enumerate([[], [MODEL], [MODEL, TRUST]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / CHAIN).touch()
        for name in names:
            (folder / name).write_bytes(bytes(12))
        assert read_folder(folder, RUN, layout, TrustPolicy()) is None


def test_a_policy_of_somebody_elses_is_in_the_way_of_a_run_and_stays(tmp_path: Path) -> None:
    layout = Layout.of({"weight": np.zeros(3, np.float32)})
    (tmp_path / TRUST).write_text("mine")
    with pytest.raises(StorageFailed, match="move it away") as caught:
        read_folder(tmp_path, RUN, layout, TrustPolicy())
    assert caught.value.code == "STATE_MISMATCH"
    assert (tmp_path / TRUST).read_text() == "mine"


def test_no_run_is_begun_where_there_is_a_part_of_one(tmp_path: Path) -> None:
    assert free_folder(tmp_path, RUN) == tmp_path / RUN
    for name in (CHAIN, MODEL, "head-1.json"):
        folder = tmp_path / name / RUN
        folder.mkdir(parents=True)
        (folder / "job.toml").touch()
        assert free_folder(folder.parent, RUN) == folder
        (folder / name).touch()
        assert free_folder(folder.parent, RUN) == folder.with_name(f"{RUN}-2")


@pytest.mark.parametrize(
    "change",
    [lambda data: data + b"x", lambda data: data[:-1], lambda data: data + bytes(4), lambda _: b""],
)
def test_a_model_of_another_length_is_refused(
    left: tuple[LocalStack, Path], tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    stack, whole = left
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / MODEL).write_bytes(change((whole / MODEL).read_bytes()))
    assert f"{MODEL} is damaged" in refused(stack, folder)


STATE = {"version": 1, "merges": 0, "nodes": {"0": "node-0"}}
MEAN = np.zeros(LAYOUT.num_params, np.float32)


@pytest.mark.parametrize(
    "state",
    [
        {"meta": "no JSON"},
        {"meta": "[" * 100_000},
        {"meta": "[]"},
        {"meta": "{}"},
        {"meta": json.dumps(STATE | {"version": "1"})},
        {"meta": json.dumps(STATE | {"merges": -1})},
        {"meta": json.dumps(STATE | {"nodes": ["node-0"]})},
        {"meta": json.dumps(STATE | {"nodes": {"0": 1}})},
        {"meta": json.dumps(STATE | {"merges": 1})},
        {"meta": json.dumps(STATE), "mean": MEAN},
        {"meta": json.dumps(STATE | {"merges": 1}), "mean": MEAN.astype(np.float64)},
        {"meta": json.dumps(STATE | {"merges": 1}), "mean": MEAN[1:]},
    ],
)
def test_a_servers_state_that_is_none_is_refused(
    left: tuple[LocalStack, Path], tmp_path: Path, state: dict[str, Any]
) -> None:
    stack, whole = left
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / SERVER).write_bytes(encode_state(state))
    assert f"{SERVER} is damaged" in refused(stack, folder)


def test_a_run_left_whole_is_taken_up(left: tuple[LocalStack, Path], tmp_path: Path) -> None:
    stack, whole = left
    again = server(stack, Path(shutil.copytree(whole, tmp_path / "run")))
    assert again.version == 1
    again.close()
