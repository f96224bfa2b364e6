"""``python -m benchmarks.task_latency``: what a task that does nothing costs in a deployment.

Two deployments run side by side, one SuperNode each: Flower's own executor, which starts a process
per task, and the warm one, which forks. They take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from asynclave.deployment import Deployment, down, up
from asynclave.deployment.processes import program_path

_APP = Path(__file__).with_name("latency_app")
_MODES = {"cold": False, "warm": True}
_CASES = {"numpy": False, "torch": True}
_PATIENCE = 300.0


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tasks", type=int, default=4, help="Timed tasks per turn.")
    options.add_argument("--turns", type=int, default=2, help="Turns of each contender.")
    asked = options.parse_args()
    print(json.dumps(measure(asked.tasks, asked.turns), indent=2))


def measure(tasks: int, turns: int) -> dict[str, Any]:
    """Return median seconds per task by case and mode, and the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        states = {mode: Path(folder) / mode for mode in _MODES}
        try:
            deployments = {
                mode: up(states[mode], 1, False, warm=warm) for mode, warm in _MODES.items()
            }
            seconds: dict[tuple[str, str], list[float]] = {
                (case, mode): [] for case in _CASES for mode in _MODES
            }
            for turn in range(turns):
                for case, mode in seconds:
                    output = Path(folder) / f"{turn}-{case}-{mode}.json"
                    seconds[case, mode] += _run(deployments[mode], case, tasks, output)
        finally:
            for state in states.values():
                down(state)
    return {"tasks": tasks * turns, "cores": os.cpu_count()} | {
        case: _summary({mode: seconds[case, mode] for mode in _MODES}) for case in _CASES
    }


def _summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {mode: statistics.median(values) for mode, values in seconds.items()}
    return {
        "median_seconds": {mode: round(value, 2) for mode, value in medians.items()},
        "largest_seconds": {mode: round(max(values), 2) for mode, values in seconds.items()},
        "cold_over_warm": round(medians["cold"] / medians["warm"], 2),
    }


def _run(deployment: Deployment, case: str, tasks: int, output: Path) -> list[float]:
    settings = f'tasks={tasks} torch={json.dumps(_CASES[case])} output="{output}"'
    command = [program_path("flwr"), *deployment.run_arguments(_APP), "--stream"]
    finished = subprocess.run(
        [*command, "--run-config", settings],
        env=deployment.environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )
    if not output.exists():
        raise RuntimeError(f"the run failed:\n{finished.stdout}{finished.stderr}")
    seconds: list[float] = json.loads(output.read_text())
    return seconds


if __name__ == "__main__":
    main()
