"""Which simulators are compared, and how one of them runs one job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.processes import end_descendants

_ROOT = Path(__file__).parents[2]
_ENVIRONMENTS = _ROOT / ".peers"
_WARM_UP = 400
_TIMEOUT = 900


class DriverFailed(Exception):
    """A simulator has not done its job; the message says why."""


@dataclass(frozen=True)
class Contender:
    """A simulator in its environment.

    Attributes
    ----------
    name : str
        Name in the results.
    python : Path
        Interpreter of the environment it is installed in.
    driver : str
        Module of this package that runs the jobs on it.
    updates : int
        Client updates to measure: seconds of work, far more than a clock tick.
    warm_up : int
        Client updates before that.
    options : tuple of str
        Further arguments of the driver.
    """

    name: str
    python: Path
    driver: str
    updates: int
    warm_up: int = _WARM_UP
    options: tuple[str, ...] = ()

    def run(self, job: str) -> dict[str, Any]:
        """Run a job in a fresh process and an empty folder; leave neither behind.

        Returns
        -------
        dict
            What `driver.measure` prints.

        Raises
        ------
        DriverFailed
            If it is not installed, its driver fails or takes too long.
        """
        if not self.python.exists():
            raise DriverFailed("not installed: run make peers")
        counts = {"--job": job, "--warm-up": self.warm_up, "--updates": self.updates}
        arguments = [str(word) for pair in counts.items() for word in pair]
        module = f"{__package__}.{self.driver}"
        command = [str(self.python), "-m", module, *arguments, *self.options]
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    env=_environment(folder),
                    capture_output=True,
                    text=True,
                    timeout=_TIMEOUT,
                    check=True,
                )
            except subprocess.CalledProcessError as error:
                raise DriverFailed(error.stderr.strip()[-500:]) from None
            except subprocess.TimeoutExpired:
                raise DriverFailed(f"not done after {_TIMEOUT} seconds") from None
            finally:
                end_descendants()
        figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return figures


def _environment(folder: str) -> dict[str, str]:
    """Return the environment of a driver: offline, one thread, all files in `folder`."""
    return os.environ | {
        "PYTHONPATH": str(_ROOT),
        "OMP_NUM_THREADS": "1",
        "HOME": folder,
        "TMPDIR": folder,
        "FLWR_HOME": folder,
        "RAY_TMPDIR": folder,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "WANDB_MODE": "disabled",
        "TQDM_DISABLE": "1",
    }


def _peer(name: str) -> Path:
    return _ENVIRONMENTS / name / "bin" / "python"


OURS = Contender("asynclave", Path(sys.executable), "ours", 10_000)
OURS_ON_ALL_CORES = Contender(
    "asynclave-2-seeds",
    Path(sys.executable),
    "ours",
    20_000,
    warm_up=2 * _WARM_UP,
    options=("--seeds", "2"),
)
"""Two seeds side by side: the fair opponent, on the wall clock, of a peer that takes both cores."""
PEERS = (
    Contender("flower", Path(sys.executable), "flower", 600),
    Contender("blazefl", _peer("blazefl"), "blazefl", 2_000),
    Contender("pfl", _peer("pfl"), "pfl", 2_000),
    Contender("appfl", _peer("appfl"), "appfl", 1_000),
)
AS_SHIPPED = Contender(
    "appfl-as-shipped", _peer("appfl"), "appfl", 20, warm_up=20, options=("--as-shipped",)
)
"""Takes minutes for these few updates, so it is run on request only."""
