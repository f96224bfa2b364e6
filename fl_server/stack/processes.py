"""Child processes of a stack: started so that none outlives it, stopped so that none remains."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from fl_protocol.codes import AsynclaveError, Code
from fl_protocol.ports import Clock

_CHILD = Path(__file__).with_name("child.py")
_LOG_TAIL = 2000


class Spawner:
    """Starts children from one thread that lives as long as the stack.

    The kernel sends the parent-death signal when the *thread* that forked a child ends, so a
    short-lived worker thread must not be the one that forks.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="asynclave-spawner", daemon=True)
        self._thread.start()

    def start(self, name: str, arguments: list[str], log: Path) -> Child:
        """Run `python ARGUMENTS` in its own process group with its output in `log`."""
        result: Future[Child] = Future()

        def job() -> None:
            try:
                result.set_result(self._popen(name, arguments, log))
            except BaseException as error:
                result.set_exception(error)

        self._jobs.put(job)
        return result.result()

    def close(self) -> None:
        """End the thread; children still alive receive SIGTERM."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    @staticmethod
    def _popen(name: str, arguments: list[str], log: Path) -> Child:
        command = [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid())]
        # Children import the very packages this process uses, wherever it was started.
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "GRPC_VERBOSITY": "ERROR",
        }
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        return Child(name, process, log)


class Child:
    """One running child and its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Process id (also its process group)."""
        return self._process.pid

    def alive(self) -> bool:
        """Tell whether the process still runs."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], patience: float, clock: Clock) -> None:
        """Block until `ready()`; raise with the log's tail when the child dies or takes too long.

        Parameters
        ----------
        ready : callable
            Cheap check, called every 20 ms.
        patience : float
            Seconds to wait.
        clock : Clock
            Time source.
        """
        deadline = clock.now() + patience
        while not ready():
            if not self.alive():
                raise self._failure(f"ended with status {self._process.returncode}")
            if clock.now() > deadline:
                raise self._failure(f"was not ready after {patience:g} s")
            clock.sleep(0.02)

    def stop(self, patience: float = 5.0) -> None:
        """Ask the process to end, then end its whole group; returns when it is reaped."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _failure(self, what: str) -> AsynclaveError:
        tail = self._log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
        return AsynclaveError(
            Code.ENCLAVE_UNAVAILABLE if self.name == "launcher" else Code.GATEWAY_UNAVAILABLE,
            f"the {self.name} {what}; its log {self._log} ends with:\n{tail or '(empty)'}",
        )
