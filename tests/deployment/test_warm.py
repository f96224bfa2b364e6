from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asynclave.deployment import down, up
from asynclave.deployment.processes import started_at
from asynclave.deployment.spec import DeploymentSpec
from fl_protocol.codes import ConfigInvalid
from tests.deployment.flower_cli import Run

WARM_APP = Path(__file__).with_name("warm_app")


def replies(state: Path, *, warm: bool, crash: bool) -> list[dict[str, Any]]:
    """Run the app on a deployment of one node; its executor must outlive the run."""
    output = state.with_suffix(".json")
    try:
        deployment = up(state, 1, False, warm=warm)
        settings = f'crash={json.dumps(crash)} output="{output}"'
        arguments = [*deployment.run_arguments(WARM_APP), "--run-config", settings]
        run = Run(deployment.environment, arguments, state.with_suffix(".log"))
        assert run.wait(patience=150) == "finished:completed", run.log
        assert all(started_at(pid) for pid in deployment.status.pids.values())
    finally:
        down(state)
    found: list[dict[str, Any]] = json.loads(output.read_text())
    return found


@pytest.mark.deployment
@pytest.mark.timeout(300)
def test_a_warm_task_does_what_a_cold_one_does_and_may_crash(tmp_path: Path) -> None:
    cold = replies(tmp_path / "cold", warm=False, crash=False)
    # Flower reports a task that died when its heartbeat has been missing for a minute.
    first, crashed, second = replies(tmp_path / "warm", warm=True, crash=True)
    assert len({str(reply["weights"]) for reply in (*cold, first, second)}) == 1
    assert set(crashed) == {"error"}
    assert len({reply["pid"] for reply in (*cold, first, second)}) == 4
    assert len({reply["draw"] for reply in (*cold, first, second)}) == 4


def test_preloading_without_warm_nodes_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="--warm"):
        DeploymentSpec(preload=("torch",))


def test_the_modules_to_preload_survive_the_spec_file(tmp_path: Path) -> None:
    spec = DeploymentSpec(warm=True, preload=("torch", "numpy"))
    spec.save(tmp_path / "spec.json")
    assert DeploymentSpec.load(tmp_path / "spec.json") == spec
