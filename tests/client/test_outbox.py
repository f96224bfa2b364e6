from __future__ import annotations

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fl_client.outbox import MAX_RUNS, MAX_UPDATES, Kept, Outbox
from fl_client.updates import LocalUpdate
from fl_protocol.codes import ConfigInvalid, StorageFailed
from fl_protocol.identity import Identity
from fl_protocol.ports import SystemRng
from tests.support.disk import MemoryDisk

METRICS = {"train": {"num-examples": 10, "loss": 0.25, "per-class": [0.5, 1.5]}}


IDENTITY = Identity.generate(SystemRng())


def outbox_in(
    folder: Path, disk: MemoryDisk | None = None, identity: Identity = IDENTITY
) -> Outbox:
    return Outbox(folder, identity, SystemRng(), disk=disk)


def kept(number: int, run_id: str = "run", version: int = 0) -> Kept:
    delta = np.arange(5, dtype=np.float32) + number
    update = LocalUpdate(run_id, version, "a" * 64, "b" * 64, "c" * 64, delta, 10)
    return Kept(f"update-{number}", update, METRICS)


def test_what_was_kept_comes_back_in_another_process(tmp_path: Path) -> None:
    outbox_in(tmp_path / "outbox").put(kept(2, version=3))
    outbox_in(tmp_path / "outbox").put(kept(1, version=1))
    found = outbox_in(tmp_path / "outbox").of("run")
    assert [k.update_id for k in found] == ["update-1", "update-2"]
    assert found[1].metrics == METRICS
    np.testing.assert_array_equal(found[1].update.delta, kept(2).update.delta)
    assert found[1].update.delta.flags.writeable
    assert found[1].update.base_version == 3
    files = [path for path in tmp_path.rglob("*.update")]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files) and len(files) == 2
    outbox_in(tmp_path / "outbox").remove(kept(1))
    assert [k.update_id for k in outbox_in(tmp_path / "outbox").of("run")] == ["update-2"]
    assert outbox_in(tmp_path / "outbox").of("another") == []


def test_no_update_lies_on_disk_in_the_clear(tmp_path: Path) -> None:
    outbox_in(tmp_path).put(kept(1))
    (path,) = tmp_path.rglob("*.update")
    assert kept(1).update.delta.tobytes() not in path.read_bytes()
    with pytest.raises(ConfigInvalid, match=path.name):
        outbox_in(tmp_path, identity=Identity.generate(SystemRng())).of("run")


@pytest.mark.parametrize("at", [3, 400, -1])
def test_an_altered_file_is_named(tmp_path: Path, at: int) -> None:
    outbox_in(tmp_path).put(kept(1))
    (path,) = tmp_path.rglob("*.update")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=path.name):
        outbox_in(tmp_path).of("run")


def test_a_full_outbox_refuses_and_drops_nothing(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    for number in range(MAX_UPDATES):
        outbox.put(kept(number))
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        outbox.put(kept(MAX_UPDATES))
    assert len(outbox.of("run")) == MAX_UPDATES


def test_what_a_write_left_behind_when_it_was_cut_off_takes_no_room(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    outbox.put(kept(0))
    (path,) = tmp_path.rglob("*.update")
    for number in range(MAX_UPDATES):
        (path.parent / f".{path.name}.{number}").write_bytes(b"torn")
    outbox.put(kept(1))
    assert len(outbox.of("run")) == 2


def test_without_room_nothing_is_half_kept() -> None:
    disk = MemoryDisk()
    outbox = outbox_in(Path("/outbox"), disk)
    outbox.put(kept(1))
    disk.room = 10
    with pytest.raises(StorageFailed, match="JOURNAL_FULL"):
        outbox.put(kept(2))
    assert [k.update_id for k in outbox.of("run")] == ["update-1"]


def test_a_failing_disk_is_a_typed_error() -> None:
    disk = MemoryDisk()

    def fail(path: Path, data: bytes, mode: int = 0o600) -> None:
        if path.suffix == ".update":
            raise OSError(errno.EIO, "Input/output error")

    disk.write_atomic = fail  # type: ignore[method-assign]
    with pytest.raises(StorageFailed, match="Input/output error"):
        outbox_in(Path("/outbox"), disk).put(kept(1))


def test_runs_long_past_are_given_up(tmp_path: Path) -> None:
    outbox = outbox_in(tmp_path)
    for number in range(MAX_RUNS + 2):
        outbox.put(kept(number, run_id=f"run-{number}"))
    left = [n for n in range(MAX_RUNS + 2) if outbox.of(f"run-{n}")]
    assert left == list(range(2, MAX_RUNS + 2))


def test_runs_begun_at_the_same_time_are_all_remembered(tmp_path: Path) -> None:
    runs = [f"run-{number}" for number in range(MAX_RUNS)]
    with ThreadPoolExecutor(MAX_RUNS) as pool:
        list(pool.map(lambda run: outbox_in(tmp_path).put(kept(1, run_id=run)), runs))
    assert len(json.loads((tmp_path / "runs.json").read_bytes())) == MAX_RUNS


@pytest.mark.parametrize("content", [b"", b"{", b"7", b"[7]", b'["../../etc"]'])
def test_a_damaged_list_of_runs_is_named_and_nothing_is_removed(
    tmp_path: Path, content: bytes
) -> None:
    outbox = outbox_in(tmp_path)
    outbox.put(kept(1))
    (tmp_path / "runs.json").write_bytes(content)
    with pytest.raises(ConfigInvalid, match=r"runs\.json"):
        outbox.put(kept(2))
    assert [k.update_id for k in outbox.of("run")] == ["update-1"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"update_id":"x"}\n', b"\xff\xfe\n\0\0\0\0"])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    outbox = outbox_in(tmp_path)
    outbox.put(kept(1))
    (path,) = tmp_path.rglob("*.update")
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match=path.name):
        outbox.of("run")
    assert path.exists()
