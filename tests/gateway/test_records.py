"""The server's records when the disk is full in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_protocol.codes import StorageFailed
from fl_protocol.signatures import Signed
from fl_server.intake.records import CHAIN, RunRecords, decode_record, encode_record
from tests.support.disk import MemoryDisk

FOLDER = Path("/run")


def record(number: int) -> Signed:
    return Signed(b'{"number":%d}' % number, bytes(64))


def lines(disk: MemoryDisk) -> list[Signed]:
    return [decode_record(line) for line in disk.read(FOLDER / CHAIN).splitlines()]


def test_a_full_disk_leaves_no_part_of_a_line() -> None:
    disk = MemoryDisk()
    records = RunRecords(FOLDER, disk=disk)
    records.append([record(1)], 1, record(0))
    disk.room = 50
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        records.append([record(2), record(3)], 1, record(0))
    disk.room = None
    assert lines(disk) == [record(1)]
    records.append([record(2), record(3)], 1, record(0))
    assert lines(disk) == [record(1), record(2), record(3)]


def test_lines_without_the_head_that_covers_them_are_taken_back() -> None:
    disk = MemoryDisk()
    records = RunRecords(FOLDER, disk=disk)
    line = len(encode_record(record(1))) + 1
    disk.room = line + 50
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        records.append([record(1)], 1, record(0))
    assert lines(disk) == []


def test_what_could_not_even_be_cut_off_is_cut_before_the_next_line() -> None:
    disk = MemoryDisk()
    records = RunRecords(FOLDER, disk=disk)
    disk.room, disk.fail_truncate = 50, True
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        records.append([record(1)], 1, record(0))
    disk.room = None
    with pytest.raises(StorageFailed, match="JOURNAL_FAILED"):
        records.append([record(1)], 1, record(0))
    disk.fail_truncate = False
    records.append([record(1)], 1, record(0))
    assert lines(disk) == [record(1)]


def test_a_torn_line_is_cut_when_the_records_are_continued() -> None:
    disk = MemoryDisk()
    RunRecords(FOLDER, disk=disk).append([record(1)], 1, record(0))
    disk.files[FOLDER / CHAIN] += b'{"payload":"to'
    RunRecords(FOLDER, disk=disk).append([record(2)], 1, record(0))
    assert lines(disk) == [record(1), record(2)]


def test_a_torn_write_may_have_lost_what_is_in_its_middle() -> None:
    disk = MemoryDisk()
    RunRecords(FOLDER, disk=disk).append([record(1)], 1, record(0))
    lost = encode_record(record(2))
    torn = bytes(len(lost)) + b"\n" + encode_record(record(3)) + b"\n"
    disk.files[FOLDER / CHAIN] += torn
    RunRecords(FOLDER, disk=disk).append([record(2)], 1, record(0))
    assert lines(disk) == [record(1), record(2)]


def test_a_failing_disk_is_a_typed_error() -> None:
    disk = MemoryDisk()
    records = RunRecords(FOLDER, disk=disk)
    disk.fail_sync = True
    with pytest.raises(StorageFailed, match="JOURNAL_FAILED"):
        records.append([record(1)], 1, record(0))
    assert lines(disk) == []
