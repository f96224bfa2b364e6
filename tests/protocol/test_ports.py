import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from fl_protocol.ports import LocalDisk, SteadyClock, SystemClock


def test_write_replaces_the_whole_file_with_the_mode_asked_for(tmp_path):
    disk, path = LocalDisk(), tmp_path / "folder" / "file"
    for mode, data in ((0o644, b"a longer first version"), (0o600, b"second")):
        disk.write_atomic(path, data, mode)
        assert disk.read(path) == data
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    disk, path = LocalDisk(), tmp_path / "file"
    disk.write_atomic(path, b"old")
    with pytest.raises(TypeError):
        disk.write_atomic(path, "not bytes")
    assert disk.read(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one_thread_at_a_time(tmp_path):
    disk, path = LocalDisk(), tmp_path / "folder" / "lock"
    inside, most = [], []

    def enter():
        with disk.lock(path) as held:
            assert held
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    with disk.lock(path):
        threads = [threading.Thread(target=enter) for _ in range(8)]
        for thread in threads:
            thread.start()
        with disk.lock(path, wait=False) as held:
            assert not held
        assert not most
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_lock_follows_no_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "lock").symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic links"), LocalDisk().lock(tmp_path / "lock"):
        pass
    assert not elsewhere.exists()


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "lock"
    program = (
        "import sys, pathlib; from fl_protocol.ports import LocalDisk\n"
        "with LocalDisk().lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with LocalDisk().lock(path, wait=False) as held:
        assert not held
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with LocalDisk().lock(path, wait=False) as held:
        assert held


def test_nobody_sets_a_steady_clock(monkeypatch):
    clock, system = SteadyClock(), SystemClock()
    shown = clock.now()
    with monkeypatch.context() as machine:
        machine.setattr(time, "time", lambda: 0.0)
        assert system.now() == 0.0
        assert clock.now() >= shown > 1_000_000_000
