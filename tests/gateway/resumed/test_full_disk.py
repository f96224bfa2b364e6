"""What a full disk kept a server from writing is written later."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from asynclave.verification.audit import audit
from fl_protocol.codes import StorageFailed
from fl_server.intake.records import CHAIN, MODEL
from fl_server.stack import LocalStack
from tests.gateway.resumed.support import RUN, server
from tests.support.disk import MemoryDisk, no_room
from tests.support.processes import kill
from tests.support.sealed import K, client, offer, trained


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
