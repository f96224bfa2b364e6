"""Runs as an image of its own, locked down like an enclave, and tries what must be refused.

Not imported by the doctor: it is put into the image as a file.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Callable

from tee_sim.lockdown import Lockdown

_READ_WRITE_EXECUTE = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


def main(arguments: list[str]) -> None:
    """Lock down without the layers named last, try, and tell which attempts were refused."""
    channel, vault = int(arguments[1]), int(arguments[3])
    answers = socket.socket(fileno=channel)
    user, skip = int(arguments[4]), arguments[5].split(",")
    attempts: dict[str, Callable[[], object]] = {
        "landlock": lambda: os.open("/", os.O_RDONLY),
        "no_new_files": lambda: os.dup(channel),
        "no_processes": _fork,
        "no_executable_memory": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=_READ_WRITE_EXECUTE),
    }
    kept = (channel, vault)
    lockdown = Lockdown(kept, int(arguments[2]), user if user >= 0 else None, skip)
    lockdown.conceal()
    lockdown.confine()
    for name, attempt in attempts.items():
        if name in skip:
            continue
        try:
            attempt()
        except OSError:
            answers.sendall(f"{name} refused\n".encode())
        else:
            answers.sendall(f"{name} allowed\n".encode())
    os._exit(0)


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)
