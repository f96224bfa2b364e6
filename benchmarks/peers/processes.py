"""CPU time and life of a process and everything it started, read from Linux' ``/proc``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_TICKS = os.sysconf("SC_CLK_TCK")


class _Process(NamedTuple):
    parent: int
    ticks: int


def descendants(root: int) -> set[int]:
    """Return the ids of all living processes that a process started, directly or not."""
    return set(_tree(root)) - {root}


def tree_cpu_seconds(root: int) -> float:
    """Return user and system time of a process and its descendants.

    Children that have ended count if their parent waited for them. The resolution is one clock
    tick per process, usually 10 ms.
    """
    return sum(process.ticks for process in _tree(root).values()) / _TICKS


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, so none gets lost."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """End everything this process has started and left running; adopted orphans included."""
    while left := descendants(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()


def _tree(root: int) -> dict[int, _Process]:
    everything = _processes()
    tree: dict[int, _Process] = {}
    found = {root} & everything.keys()
    while found:
        tree |= {pid: everything[pid] for pid in found}
        found = {pid for pid, process in everything.items() if process.parent in found}
    return tree


def _processes() -> dict[int, _Process]:
    processes = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                processes[int(folder.name)] = _read(folder / "stat")
    return processes


def _read(stat: Path) -> _Process:
    # The name in parentheses may hold blanks; after it come state, parent, and from the twelfth
    # field on the ticks: user, system, and both of the children waited for. See proc_pid_stat(5).
    fields = stat.read_text().rpartition(")")[2].split()
    return _Process(int(fields[1]), sum(map(int, fields[11:15])))
