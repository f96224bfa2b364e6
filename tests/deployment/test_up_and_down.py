from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asynclave.cli import app
from asynclave.deployment import Deployment, DeploymentCode, DeploymentError, down, up
from asynclave.deployment.control import find
from asynclave.deployment.flower import create_node_key, flower_environment
from asynclave.deployment.processes import Program, free_port, program_path, started_at
from asynclave.deployment.spec import Status
from fl_protocol.codes import Code, ConfigInvalid, StorageFailed
from tests.deployment.conftest import SLOW_NODE
from tests.deployment.flower_cli import flwr, ticks


def all_gone(pids: list[int]) -> bool:
    return any(all(started_at(pid) is None for pid in pids) for _ in ticks(15, step=0.2))


def test_refuses_directory_with_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(DeploymentError) as refusal:
        up(tmp_path)
    assert refusal.value.code == DeploymentCode.STATE_DIR_IN_USE
    assert (tmp_path / "thesis.txt").read_text() == "important"


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for state in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(StorageFailed, match=str(state)):
            up(state)


def test_a_module_that_cannot_be_preloaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"'no\.such_module'") as refusal:
        up(tmp_path / "state", 2, warm=True, preload=("json", "no.such_module"))
    assert refusal.value.code == Code.CONFIG_INVALID


def test_down_without_deployment_does_nothing(tmp_path: Path) -> None:
    assert down(tmp_path) is False
    assert down(tmp_path / "missing") is False


def test_reports_end_of_log_when_a_program_dies(tmp_path: Path) -> None:
    script = "print('no disk left'); raise SystemExit(3)"
    program = Program("node-0", [sys.executable, "-c", script], os.environ, tmp_path / "log")
    program.reap(10)
    with pytest.raises(DeploymentError, match=r"(?s)node-0 ended with status 3.*no disk left"):
        program.check()


@pytest.mark.deployment
def test_refuses_port_in_use(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(DeploymentError) as refusal,
    ):
        up(tmp_path / "state", 1, False, port=server.getsockname()[1])
    assert refusal.value.code == DeploymentCode.PORT_IN_USE
    assert find(tmp_path / "state") is None


@pytest.mark.deployment
def test_up_again_returns_the_running_deployment(confidential: Deployment) -> None:
    again = up(confidential.state.root, 3, slow_node=SLOW_NODE)
    assert again == confidential


@pytest.mark.deployment
def test_up_with_other_settings_is_refused(confidential: Deployment) -> None:
    with pytest.raises(DeploymentError) as refusal:
        up(confidential.state.root, 5)
    assert refusal.value.code == DeploymentCode.ALREADY_UP
    assert f"down --state-dir {confidential.state.root}`" in refusal.value.sentence


@pytest.mark.deployment
def test_keys_are_readable_by_their_owner_only(confidential: Deployment) -> None:
    assert confidential.state.root.stat().st_mode & 0o777 == 0o700
    secrets = [*confidential.state.keys.glob("node-?"), confidential.state.tls / "server.key"]
    assert len(secrets) == 4
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}


@pytest.mark.deployment
def test_down_leaves_no_process(tmp_path: Path) -> None:
    # given a deployment of which one node was killed
    state = tmp_path / "state"
    deployment = up(state, 2, False)
    pids = deployment.status.pids
    os.kill(pids["node-1"], signal.SIGKILL)
    for _ in ticks(10, step=0.2):
        if Status.load(deployment.state.status).ended == ("node-1",):
            break
    else:
        raise AssertionError("the lost node was not reported")
    told = CliRunner().invoke(app, ["up", "--state-dir", str(state), "--nodes", "2", "--plain"])
    assert "Ended       node-1" in told.output
    # when, then
    assert down(state) is True
    assert all_gone([*pids.values(), deployment.status.supervisor[0]])
    assert down(state) is False
    # and the directory can be used again
    again = up(state, 1, False)
    assert len(flwr(again.environment, "supernode", "list")["nodes"]) == 1
    # and nothing outlives a supervisor that is killed
    os.kill(again.status.supervisor[0], signal.SIGKILL)
    assert all_gone(list(again.status.pids.values()))
    assert find(state) is None


@pytest.mark.deployment
def test_superlink_refuses_unregistered_node(confidential: Deployment, tmp_path: Path) -> None:
    # given a SuperNode with a key of its own that nobody registered
    key = create_node_key(tmp_path, "stranger")
    ca = confidential.state.tls / "ca.pem"
    command = [
        *(program_path("flower-supernode"), "--superlink", confidential.status.superlink),
        *("--root-certificates", str(ca), "--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    environment = flower_environment(tmp_path / "flwr")
    # when
    stranger = Program("stranger", command, environment, tmp_path / "log")
    stranger.reap(20)
    # then
    with pytest.raises(DeploymentError, match="Failed to activate SuperNode"):
        stranger.check()


def test_refuses_contradicting_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"2 to 3 .*nodes"):
        up(tmp_path / "state", 3, buffer_size=4)
    with pytest.raises(ConfigInvalid, match="no node 3 among 3"):
        up(tmp_path / "state", 3, slow_node=3)
    with pytest.raises(ConfigInvalid, match="nan s"):
        up(tmp_path / "state", 3, slow_node=0, slow_delay=float("nan"))
    assert not (tmp_path / "state").exists()
