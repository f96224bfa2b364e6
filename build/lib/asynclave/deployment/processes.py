"""Processes of a deployment: started to die with their parent, found again, swept at the end."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from asynclave.deployment.errors import DeploymentCode, DeploymentError

_DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
_PR_SET_CHILD_SUBREAPER = 36
_LOG_TAIL = 2000


class Program:
    """One running program and its log.

    Parameters
    ----------
    name : str
        Name in messages and of the log file.
    command : list of str
        Absolute path of a program and its arguments.
    environment : mapping
        The program's whole environment.
    log : Path
        Receives what the program writes.
    """

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        wrapper = [sys.executable, "-I", "-S", str(_DIE_WITH_PARENT), str(os.getpid())]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*wrapper, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Tell whether the process still runs."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise CHILD_DIED with the end of the log when the process has ended."""
        if not self.alive():
            raise DeploymentError(
                DeploymentCode.CHILD_DIED,
                f"{self.name} ended with status {self._process.returncode}; {log_tail(self.log)}",
            )

    def terminate(self) -> None:
        """Ask the process to end; returns at once."""
        if self.alive():
            self._process.terminate()

    def reap(self, patience: float) -> None:
        """Wait for the end, at most `patience` seconds, then kill."""
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def log_tail(log: Path) -> str:
    """Describe the end of a log file."""
    tail = log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip() if log.exists() else ""
    return f"its log {log} ends with:\n{tail or '(empty)'}"


def program_path(name: str) -> str:
    """Find a program installed beside this Python.

    Raises
    ------
    DeploymentError
        PROGRAM_MISSING.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise DeploymentError(
            DeploymentCode.PROGRAM_MISSING,
            f"{path} does not exist; install flwr into the environment of {sys.executable}.",
        )
    return str(path)


def free_port(wanted: int = 0) -> int:
    """Return a free loopback port, or `wanted` if that is free.

    Raises
    ------
    DeploymentError
        PORT_IN_USE.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise DeploymentError(
                DeploymentCode.PORT_IN_USE,
                f"port {wanted} cannot be used ({error.strerror}); choose another with --port.",
            ) from error
        return int(probe.getsockname()[1])


def started_at(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, None when there is no such process.

    Pid and start time together name a process: a pid alone may have been given to another.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, start = fields[0], int(fields[19])
    return None if state == "Z" else start


def adopt_orphans() -> None:
    """Make descendants whose parent dies children of this process, so that it can sweep them."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def sweep(patience: float) -> None:
    """End every remaining descendant of this process: SIGTERM, then SIGKILL after `patience` s."""
    deadline = time.monotonic() + patience
    asked: set[int] = set()
    while children := list(_children()):
        last_call = time.monotonic() > deadline
        for pid in children:
            if last_call or pid not in asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if last_call else signal.SIGTERM)
                asked.add(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


@contextlib.contextmanager
def held_lock(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a file; yields False when another process holds it."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _children() -> Iterator[int]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    for task in tasks.iterdir():
        yield from map(int, (task / "children").read_text().split())
