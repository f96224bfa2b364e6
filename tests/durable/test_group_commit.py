"""Coroutines that share a journal: who waits together is synced together, and nothing sooner."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from fl_protocol.codes import StorageFailed
from fl_server.durable.group_commit import GroupCommit
from tests.support.disk import MemoryDisk, journal_on


class GatedDisk(MemoryDisk):
    """Counts syncs and, while `closed`, holds them up."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0
        self.open = threading.Event()
        self.open.set()
        self.held = threading.Event()

    def open_log(self, path):
        log, sync = super().open_log(path), None
        sync = log.sync

        def gated():
            self.held.set()
            assert self.open.wait(30)
            self.syncs += 1
            sync()

        log.sync = gated
        return log


def kept(disk: MemoryDisk) -> list[str]:
    disk.lose_power()
    return [entry.meta["id"] for entry in journal_on(disk).entries()]


@pytest.fixture
def disk() -> Iterator[GatedDisk]:
    disk = GatedDisk()
    yield disk
    disk.open.set()


async def test_nothing_is_confirmed_before_its_sync_and_who_waits_shares_the_next(
    disk: GatedDisk,
) -> None:
    commit = GroupCommit(journal_on(disk))
    assert await commit.append({"id": "begin"}) == 1
    disk.held.clear()
    disk.open.clear()
    first = asyncio.create_task(commit.append({"id": "first"}, [b"body"]))
    await asyncio.to_thread(disk.held.wait, 30)
    others = [asyncio.create_task(commit.append({"id": f"{n}"}, [b"body"])) for n in range(20)]
    await asyncio.sleep(0)
    assert not first.done() and commit.last == 1
    before = disk.syncs
    disk.open.set()
    assert await asyncio.gather(first, *others) == list(range(2, 23))
    assert (disk.syncs - before, commit.last) == (2, 22)
    assert kept(disk) == ["begin", "first", *map(str, range(20))]


async def test_a_failure_refuses_the_batch_and_only_that(disk: GatedDisk) -> None:
    commit = GroupCommit(journal_on(disk))
    await commit.append({"id": "before"})
    disk.fail_sync = True
    results = await asyncio.gather(
        *(commit.append({"id": f"{n}"}) for n in range(3)), return_exceptions=True
    )
    assert [error.code for error in results] == ["JOURNAL_FAILED"] * 3
    assert len({id(error) for error in results}) == 3
    disk.fail_sync, disk.room = False, 10
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        await commit.append({"id": "no room"})
    disk.room = None
    await commit.append({"id": "after"})
    assert kept(disk) == ["before", "after"]


async def test_a_note_waits_for_no_sync_and_outlives_a_failure(disk: GatedDisk) -> None:
    commit = GroupCommit(journal_on(disk))
    await commit.append({"id": "before"})
    syncs = disk.syncs
    commit.note({"id": "written"})
    await commit.close()
    assert disk.syncs == syncs
    disk.fail_sync = True
    commit.note({"id": "waiting"})
    with pytest.raises(StorageFailed):
        await commit.append({"id": "refused"})
    disk.fail_sync = False
    await commit.append({"id": "after"})
    assert kept(disk) == ["before", "written", "waiting", "after"]


async def test_a_note_that_nothing_followed_may_be_lost(disk: GatedDisk) -> None:
    commit = GroupCommit(journal_on(disk))
    await commit.append({"id": "before"})
    commit.note({"id": "noted"})
    await commit.close()
    assert kept(disk) == ["before"]


async def test_segments_that_are_done_with_are_removed(disk: GatedDisk) -> None:
    commit = GroupCommit(journal_on(disk, segment_bytes=100))
    for number in range(6):
        await commit.append({"id": f"{number}"}, [bytes(100)])
    assert len(disk.files) == 6
    commit.retire(4)
    await commit.append({"id": "6"}, [bytes(100)])
    assert kept(disk) == ["4", "5", "6"]
