from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployment.conftest import QUICKSTART
from tests.deployment.flower_cli import Run

pytestmark = pytest.mark.deployment


def test_flwr_run_local_trains_asynchronously(
    simulation_environment: dict[str, str], tmp_path: Path
) -> None:
    # given Flower's own simulation with three nodes
    options = ["--federation-config", "num-supernodes=3", "--run-config", "num-server-rounds=2"]
    # when
    arguments = ["run", str(QUICKSTART), "local", *options]
    run = Run(simulation_environment, arguments, tmp_path / "run.log")
    status = run.wait(patience=150)
    # then
    assert status == "finished:completed", run.log
    assert "Version 2: accuracy" in run.log
