"""Other processes, as a test sees and ends them."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

from fl_protocol.ports import SystemClock

PATIENCE = 30.0


def lives(pid: int) -> bool:
    """Say whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def kill(pid: int) -> None:
    """Kill a process without warning, and wait until it is gone."""
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([handle], [], [])
    os.close(handle)


def wait_until(
    condition: Callable[[], object], patience: float = PATIENCE, what: str = "it"
) -> None:
    """Return when a condition holds, and fail when it does not for so many seconds."""
    clock = SystemClock()
    deadline = clock.now() + patience
    while not condition():
        assert clock.now() < deadline, f"{what} took longer than {patience:g} s"
        clock.sleep(0.05)
