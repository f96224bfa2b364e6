"""Child processes of a stack: what they are started with, and how they are waited for and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fl_protocol.codes import AsynclaveError, Code, error_for
from fl_protocol.ports import Clock

_LOG_TAIL = 2000
_POLL_SECONDS = 0.02


class Child:
    """A Python module running as a process of its own group, with its output in a log.

    Parameters
    ----------
    name : str
        What errors call it.
    module : str
        Module to run; its one argument is the configuration's path. It must end by itself when
        this process does.
    config : Path
        Configuration file.
    log : Path
        Receives its output.
    """

    def __init__(self, name: str, module: str, config: Path, log: Path) -> None:
        self.name, self._log = name, log
        # Children import the very packages this process uses, wherever it was started.
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "GRPC_VERBOSITY": "ERROR",
                },
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id (also its process group)."""
        return self._process.pid

    def alive(self) -> bool:
        """Tell whether the process still runs."""
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], patience: float, clock: Clock) -> None:
        """Block until it is ready.

        Parameters
        ----------
        ready : callable
            Cheap check.
        patience : float
            Seconds to wait.
        clock : Clock
            Time source.

        Raises
        ------
        GatewayUnavailable
            The process ended or took too long; the sentence ends with its log's last lines.
        """
        deadline = clock.now() + patience
        while not ready():
            if not self.alive():
                raise self._failure(f"ended with status {self._process.returncode}")
            if clock.now() > deadline:
                raise self._failure(f"was not ready after {patience:g} s")
            clock.sleep(_POLL_SECONDS)

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
        launcher = self.name == "launcher"
        return error_for(
            Code.ENCLAVE_UNAVAILABLE if launcher else Code.GATEWAY_UNAVAILABLE,
            f"the {self.name} {what}; its log {self._log} ends with:\n{tail or '(empty)'}",
        )
