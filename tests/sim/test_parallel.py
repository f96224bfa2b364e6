from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from fl_sim.simulation.parallel import in_processes

def work(folder, tell):
    Path(folder, str(os.getpid())).touch()
    while not Path(folder, "go").exists():
        time.sleep(0.05)

if __name__ == "__main__":
    # Tests may run in the background of a shell, where interrupts are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    list(in_processes(work, [(sys.argv[1],)], 1, print))
"""


def begun(tmp_path: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a parent, and wait for the process of its worker."""
    script, folder = tmp_path / "script.py", tmp_path / "workers"
    folder.mkdir()
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script), str(folder)])
    while not (names := os.listdir(folder)):
        assert parent.poll() is None
        time.sleep(0.05)
    return parent, int(names[0])


def require_end(worker: int) -> None:
    deadline = time.monotonic() + 20
    while _runs(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent, worker = begun(tmp_path)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    require_end(worker)


def test_an_interrupt_does_not_reach_workers(tmp_path: Path) -> None:
    parent, worker = begun(tmp_path)
    os.kill(worker, signal.SIGINT)
    (tmp_path / "workers" / "go").touch()
    assert parent.wait(20) == 0


def test_workers_end_with_a_parent_that_is_interrupted(tmp_path: Path) -> None:
    parent, worker = begun(tmp_path)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(20) != 0
    require_end(worker)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
