"""What Linux says about a running process."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int, field: str) -> float:
    """Return a process's memory, MiB: "VmRSS" for what is resident now, "VmHWM" for its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no {field}")


def reset_peak(pid: int) -> None:
    """Let a process's peak begin anew at what is resident; takes root for a concealed one."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process has spent, its dead children left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
