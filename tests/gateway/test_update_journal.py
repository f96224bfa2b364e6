"""What the gateway's journal keeps of updates, and for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fl_protocol.codes import StorageFailed
from fl_protocol.header import SEGMENT_BYTES, SUITE, Header, body_size
from fl_protocol.ports import SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.durable.journal import Journal
from fl_server.gateway.update_journal import Kept, UpdateJournal
from tests.support.disk import MemoryDisk

BODY = (b"a" * 300, b"b" * 116)


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def opened(disk: MemoryDisk) -> UpdateJournal:
    return UpdateJournal(Journal(Path("/journal"), disk, SystemRng(), segment_bytes=400))


def header(update_id: str, epoch: int = 3) -> Header:
    ct_len, n_segs = body_size(400)
    words = {"federation": "f", "run_id": "r", "client_id": "c", "update_id": update_id}
    digests = ("key_id", "policy_digest", "base_model_digest", "manifest_digest", "task_digest")
    return Header(
        v=1,
        suite=SUITE,
        epoch=epoch,
        base_version=0,
        num_examples=1,
        ct_len=ct_len,
        seg_size=SEGMENT_BYTES,
        n_segs=n_segs,
        nonce="0" * 32,
        iat=1,
        exp=2,
        trace_id="1" * 32,
        **words,
        **dict.fromkeys(digests, "0" * 64),
    )


async def keep(journal: UpdateJournal, update_id: str) -> Kept:
    about = header(update_id)
    envelope = pb.SubmitHeader(protected=about.encode(), wrap=b"wrap", tags=b"tags")
    return await journal.keep(envelope, about, BODY)


def left_in(disk: MemoryDisk) -> list[str]:
    return [left.update_id for left in opened(disk).left_over]


async def test_an_update_without_an_answer_comes_back_as_it_was(disk: MemoryDisk) -> None:
    await keep(opened(disk), "u1")
    disk.lose_power()
    again = opened(disk)
    (left,) = again.left_over
    assert (left.client_id, left.update_id, left.epoch) == ("c", "u1", 3)
    assert left.trace_id == "1" * 32
    envelope, body = again.read(left)
    assert envelope == pb.SubmitHeader(protected=header("u1").encode(), wrap=b"wrap", tags=b"tags")
    assert b"".join(body) == b"".join(BODY)


async def test_a_refusal_is_on_disk_when_its_caller_hears_of_it(disk: MemoryDisk) -> None:
    journal = opened(disk)
    accepted, refused = await keep(journal, "accepted"), await keep(journal, "refused")
    await journal.refused(refused)
    journal.accepted(accepted)
    disk.lose_power()
    # The note of an acceptance may be lost: it is answered with the first receipt.
    assert left_in(disk) == ["accepted"]


async def test_what_was_answered_does_not_come_back_after_an_orderly_end(disk: MemoryDisk) -> None:
    journal = opened(disk)
    journal.accepted(await keep(journal, "accepted"))
    await keep(journal, "under-way")
    await journal.close()
    assert left_in(disk) == ["under-way"]


async def test_a_full_disk_keeps_nothing_and_serves_again_when_there_is_room(
    disk: MemoryDisk,
) -> None:
    journal = opened(disk)
    first = await keep(journal, "first")
    disk.room = 200
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        await keep(journal, "second")
    await journal.refused(first)
    disk.room = None
    await keep(journal, "third")
    disk.lose_power()
    assert left_in(disk) == ["third"]


async def test_the_journal_holds_what_is_open_and_little_more(disk: MemoryDisk) -> None:
    journal = opened(disk)
    for number in range(20):
        journal.accepted(await keep(journal, f"u{number}"))
    assert len(disk.files) <= 3
    stuck = await keep(journal, "stuck")
    for number in range(20):
        journal.accepted(await keep(journal, f"v{number}"))
    assert len(disk.files) > 20
    journal.accepted(stuck)
    journal.accepted(await keep(journal, "last"))
    await keep(journal, "next")
    await journal.close()
    assert len(disk.files) <= 3
    assert left_in(disk) == ["next"]


async def test_what_an_earlier_process_left_is_kept_until_it_is_answered(disk: MemoryDisk) -> None:
    await keep(opened(disk), "old")
    journal = opened(disk)
    (left,) = journal.left_over
    for number in range(5):
        journal.accepted(await keep(journal, f"u{number}"))
    await journal.close()
    assert left_in(disk) == ["old"]
    journal = opened(disk)
    (left,) = journal.left_over
    journal.accepted(left.kept)
    await keep(journal, "new")
    await journal.close()
    assert left_in(disk) == ["new"]


async def test_an_update_whose_upload_was_cancelled_while_it_was_written_is_kept(
    disk: MemoryDisk,
) -> None:
    journal = opened(disk)
    cancelled = asyncio.create_task(keep(journal, "cancelled"))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    for number in range(5):
        journal.accepted(await keep(journal, f"u{number}"))
    await journal.close()
    assert left_in(disk) == ["cancelled"]
