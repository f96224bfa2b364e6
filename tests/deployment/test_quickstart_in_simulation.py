from __future__ import annotations

import pytest

from tests.deployment.conftest import QUICKSTART
from tests.deployment.flower_cli import submit

pytestmark = pytest.mark.deployment


def test_flwr_run_local_trains_asynchronously(simulation_environment: dict[str, str]) -> None:
    # given Flower's own simulation with three nodes
    federation = "num-supernodes=3 client-resources-num-cpus=1"
    settings = "num-server-rounds=3 fraction-evaluate=1.0"
    # when
    run = submit(
        simulation_environment,
        [
            *("run", str(QUICKSTART), "local"),
            *("--federation-config", federation, "--run-config", settings),
        ],
    )
    status = run.wait(patience=120)
    # then
    assert status == "finished:completed", run.log()
    assert "Version 3: accuracy" in run.log()
