"""Run apps with the `flwr` command line and learn how they ended."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asynclave.deployment.processes import program_path


@dataclass(frozen=True)
class Run:
    """A run submitted to a SuperLink."""

    environment: Mapping[str, str]
    connection: str
    run_id: str

    def status(self) -> str:
        """Return Flower's status, such as "running" or "finished:completed"."""
        answer = flwr(self.environment, "ls", self.connection, "--run-id", self.run_id)
        return str(answer["runs"][0]["status"])

    def log(self) -> str:
        """Return what the ServerApp wrote so far."""
        return _output(self.environment, "log", self.run_id, self.connection, "--show")

    def wait(self, patience: float) -> str:
        """Wait for the end and return the final status."""
        status = ""
        for _ in ticks(patience):
            if (status := self.status()).startswith("finished"):
                return status
        raise TimeoutError(f"still {status} after {patience} s:\n{self.log()}")


def submit(environment: Mapping[str, str], arguments: list[str]) -> Run:
    """Submit a run; `arguments` are "run", the app, the connection and options."""
    answer = flwr(environment, *arguments)
    return Run(environment, arguments[2], answer["run-id"])


def flwr(environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """Call `flwr ... --format json` and return its answer."""
    output = _output(environment, *arguments, "--format", "json")
    answer: dict[str, Any] = json.loads(output[output.index("{") :])
    return answer


def ticks(patience: float, step: float = 1.0) -> Iterator[None]:
    """Yield every `step` seconds for `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        yield
        time.sleep(step)


def wait_for_file(path: Path, run: Run, patience: float) -> None:
    """Wait until a file exists; raises with the run's log when the run ends without it."""
    for _ in ticks(patience):
        if path.exists():
            return
        if (status := run.status()).startswith("finished"):
            break
    raise AssertionError(f"{path.name} was not written; the run is {status}:\n{run.log()}")


def _output(environment: Mapping[str, str], *arguments: str) -> str:
    finished = subprocess.run(
        [program_path("flwr"), *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout
