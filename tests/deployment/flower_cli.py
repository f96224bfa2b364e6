"""Run apps with the `flwr` command line and learn how they ended."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asynclave.deployment.processes import program_path


class Run:
    """A run submitted to a SuperLink, with its log streaming into a file.

    Parameters
    ----------
    environment : mapping
        With FLWR_HOME, where the connection is configured.
    arguments : list of str
        "run", the app, the connection, and options.
    log : Path
        Receives what the ServerApp writes.
    """

    def __init__(self, environment: Mapping[str, str], arguments: list[str], log: Path) -> None:
        self._environment, self._connection, self._log = environment, arguments[2], log
        self._run_id = flwr(environment, *arguments)["run-id"]
        # Ends with the run, and costs less than asking for the status again and again.
        command = [program_path("flwr"), "log", self._run_id, self._connection, "--stream"]
        with log.open("wb") as output:
            self._stream = subprocess.Popen(
                command, env=dict(environment), stdout=output, stderr=output
            )

    @property
    def log(self) -> str:
        """What the ServerApp wrote so far."""
        return self._log.read_text()

    def wait(self, patience: float) -> str:
        """Wait for the end and return Flower's status, such as "finished:completed"."""
        try:
            self._stream.wait(patience)
        except subprocess.TimeoutExpired:
            self._stream.kill()
            self._stream.wait()
            raise AssertionError(f"not finished after {patience} s:\n{self.log}") from None
        answer = flwr(self._environment, "ls", self._connection, "--run-id", self._run_id)
        return str(answer["runs"][0]["status"])

    def wait_for_file(self, path: Path, patience: float) -> None:
        """Wait until the app has written a file."""
        for _ in ticks(patience, step=0.1):
            if path.exists():
                return
            if self._stream.poll() is not None:
                break
        raise AssertionError(f"{path.name} was not written:\n{self.log}")


def flwr(environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """Call `flwr ... --format json` and return its answer."""
    finished = subprocess.run(
        [program_path("flwr"), *arguments, "--format", "json"],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def ticks(patience: float, step: float = 1.0) -> Iterator[None]:
    """Yield every `step` seconds for `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        yield
        time.sleep(step)
