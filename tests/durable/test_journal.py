import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_protocol.codes import StorageFailed
from fl_protocol.ports import LocalDisk, SystemRng
from fl_server.durable import frames
from fl_server.durable.journal import Journal
from tests.support.disk import JOURNAL, MemoryDisk, journal_on


def contents(journal, after=0):
    return [(e.number, e.meta["id"], journal.read(e)) for e in journal.entries(after)]


def fill(journal, count, size=100, start=1):
    expected = []
    for number in range(start, start + count):
        body = os.urandom(size)
        assert journal.append({"id": f"u{number}"}, [body[:30], memoryview(body)[30:]]) == number
        expected.append((number, f"u{number}", body))
    journal.sync()
    return expected


def only_file(disk):
    (path,) = disk.files
    return disk.files[path]


def test_entries_come_back_in_order_from_a_real_disk(tmp_path):
    journal = Journal(tmp_path / "j", LocalDisk(), SystemRng(), segment_bytes=1000)
    expected = [entry for start in (1, 11, 21) for entry in fill(journal, 10, start=start)]
    journal.close()
    again = Journal(tmp_path / "j", LocalDisk(), SystemRng(), segment_bytes=1000)
    assert contents(again) == expected
    assert contents(again, after=25) == expected[25:]
    assert again.next_number == 31 and again.cut == 0
    assert len(list((tmp_path / "j").iterdir())) > 1
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "j").iterdir())


@given(st.integers(0, 10**9), st.integers(1, 5), st.integers(0, 3))
def test_a_loss_of_power_keeps_exactly_what_was_synced(seed, synced, unsynced):
    rng, disk = random.Random(seed), MemoryDisk()
    journal = journal_on(disk, segment_bytes=300)
    expected = fill(journal, synced)
    for number in range(unsynced):
        journal.append({"id": f"lost{number}"}, [rng.randbytes(50)])

    def keep(lost):
        # A file system may have written any part of it, in any order.
        kept = bytearray(lost[: rng.randint(0, len(lost))])
        for _ in range(rng.randint(0, 2)):
            if kept:
                at = rng.randrange(len(kept))
                kept[at : at + 64] = bytes(len(kept[at : at + 64]))
        return bytes(kept)

    disk.lose_power(keep)
    again = journal_on(disk, segment_bytes=300)
    found = contents(again)
    assert found[:synced] == expected
    assert all(name.startswith("lost") for _, name, _ in found[synced:])
    # And it goes on from there.
    more = fill(again, 2, start=again.next_number)
    assert contents(journal_on(disk, segment_bytes=300))[-2:] == more


@given(st.integers(1, 6), st.data())
def test_no_flipped_bit_in_a_synced_entry_goes_unseen(count, data):
    disk = MemoryDisk()
    fill(journal_on(disk), count)
    file = only_file(disk)
    # The mark at the end was not synced, and its loss costs nothing.
    at = data.draw(st.integers(0, len(file) - frames.FRAME_HEAD_BYTES - 1))
    file[at] ^= 1 << data.draw(st.integers(0, 7))
    before = bytes(file)
    with pytest.raises(StorageFailed, match="JOURNAL_DAMAGED"):
        journal_on(disk)
    assert bytes(file) == before


def test_garbage_behind_the_last_entry_is_cut_and_counted():
    disk = MemoryDisk()
    expected = fill(journal_on(disk), 3)
    file = only_file(disk)
    size = len(file)
    file += os.urandom(500)
    again = journal_on(disk)
    assert contents(again) == expected
    assert again.cut == 500
    assert len(file) == size


def test_a_missing_segment_is_damage():
    disk = MemoryDisk()
    fill_many = journal_on(disk, segment_bytes=300)
    for batch in range(6):
        fill(fill_many, 1, start=batch + 1, size=200)
    names = disk.list(JOURNAL)
    assert len(names) >= 3
    del disk.files[JOURNAL / names[1]]
    with pytest.raises(StorageFailed, match="are gone"):
        journal_on(disk, segment_bytes=300)


def test_nothing_is_cut_from_a_journal_that_is_damaged():
    disk = MemoryDisk()
    journal = journal_on(disk, segment_bytes=300)
    for number in range(1, 5):
        fill(journal, 1, size=200, start=number)
    # The mark of an older segment is lost with the power, and a bit of its last entry flips.
    disk.lose_power()
    oldest = JOURNAL / disk.list(JOURNAL)[0]
    disk.files[oldest][-5] ^= 1
    before = {path: bytes(data) for path, data in disk.files.items()}
    with pytest.raises(StorageFailed, match="are gone"):
        journal_on(disk, segment_bytes=300)
    assert {path: bytes(data) for path, data in disk.files.items()} == before


def test_a_segment_whose_making_was_interrupted_is_removed():
    disk = MemoryDisk()
    journal = journal_on(disk, segment_bytes=300)
    expected = fill(journal, 1, size=400)
    path = JOURNAL / f"{2:020d}.journal"
    disk.files[path], disk.synced[path] = bytearray(b"ASYNC"), 0
    again = journal_on(disk, segment_bytes=300)
    assert contents(again) == expected and again.cut == 5
    assert path not in disk.files
    assert fill(again, 1, start=2)


def test_a_damaged_segment_head_is_damage():
    disk = MemoryDisk()
    fill(journal_on(disk), 2)
    only_file(disk)[9] ^= 1
    with pytest.raises(StorageFailed, match="JOURNAL_DAMAGED"):
        journal_on(disk)


def test_a_full_disk_refuses_and_loses_nothing():
    disk = MemoryDisk()
    journal = journal_on(disk)
    expected = fill(journal, 2)
    disk.room = 70
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        journal.append({"id": "too much"}, [bytes(1000)])
    assert contents(journal_on(disk)) == expected
    disk.room = None
    expected += fill(journal, 1, start=3)
    assert contents(journal_on(disk)) == expected


def test_a_failed_sync_acknowledges_nothing_and_the_journal_goes_on():
    disk = MemoryDisk()
    journal = journal_on(disk)
    expected = fill(journal, 2)
    journal.append({"id": "lost"}, [b"x"])
    disk.fail_sync = True
    with pytest.raises(StorageFailed, match="JOURNAL_FAILED"):
        journal.sync()
    disk.fail_sync = False
    expected += fill(journal, 2, start=3)
    assert contents(journal) == expected
    assert contents(journal_on(disk)) == expected


def test_what_was_never_known_to_be_synced_is_written_anew_before_it_is_relied_on():
    disk = MemoryDisk()
    journal = journal_on(disk)
    expected = fill(journal, 1)
    body = os.urandom(50)
    journal.append({"id": "u2"}, [body])
    # The process is killed: what it wrote is there, in the machine's memory only.
    expected.append((2, "u2", body))
    assert contents(journal_on(disk)) == expected
    disk.lose_power()
    assert contents(journal_on(disk)) == expected


def test_a_failed_sync_does_not_leave_its_mark_behind():
    disk = MemoryDisk()
    journal = journal_on(disk)
    expected = fill(journal, 1)
    durable = len(only_file(disk)) - frames.FRAME_HEAD_BYTES
    journal.append({"id": "lost"}, [b"x"])
    disk.fail_sync = True
    with pytest.raises(StorageFailed):
        journal.sync()
    # The kernel takes the pages of a failed sync for written: nothing of them may stay.
    assert len(only_file(disk)) == durable
    disk.fail_sync = False
    expected += fill(journal, 1, start=2)
    assert contents(journal_on(disk)) == expected


def test_while_a_partial_frame_cannot_be_cut_nothing_is_accepted():
    disk = MemoryDisk()
    journal = journal_on(disk)
    expected = fill(journal, 1)
    disk.room, disk.fail_truncate = 70, True
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        journal.append({"id": "a"}, [bytes(1000)])
    disk.room = None
    with pytest.raises(StorageFailed, match="JOURNAL_FAILED"):
        journal.append({"id": "b"}, [b"x"])
    disk.fail_truncate = False
    expected += fill(journal, 1, start=2)
    assert contents(journal_on(disk)) == expected


def test_a_body_cannot_pose_as_a_frame():
    disk = MemoryDisk()
    journal = journal_on(disk)
    expected = fill(journal, 1)
    posing = frames.Frame(frames.MARK, 0, 0, 0, 1 << 40, 0).head(salt=0)
    journal.append({"id": "torn"}, [posing * 100])
    disk.lose_power(lambda lost: lost[:-1])
    assert contents(journal_on(disk)) == expected


def test_lengths_are_bounded_before_anything_of_that_size_is_read():
    disk = MemoryDisk()
    journal = journal_on(disk)
    fill(journal, 1)
    salt = journal._segments[0].head.salt
    file = only_file(disk)
    file += frames.Frame(frames.ENTRY, len(file), 1 << 30, 1 << 62, 0, 0).head(salt)
    reads = []
    read_at = disk.read_at
    disk.read_at = lambda path, offset, count: reads.append(count) or read_at(path, offset, count)
    assert journal_on(disk).cut == frames.FRAME_HEAD_BYTES
    assert max(reads) <= 1 << 20


def test_retired_segments_go_once_all_their_entries_are_covered():
    disk = MemoryDisk()
    journal = journal_on(disk, segment_bytes=300)
    expected = []
    for number in range(1, 7):
        expected += fill(journal, 1, size=200, start=number)
    per_segment = len(disk.list(JOURNAL))
    journal.retire(1)
    assert len(disk.list(JOURNAL)) >= per_segment - 1
    journal.retire(6)
    assert len(disk.list(JOURNAL)) == 1
    again = journal_on(disk, segment_bytes=300)
    assert again.next_number == 7
    assert contents(again) == expected[-len(contents(again)) :]
