"""SuperNodes that end and come back, on a real SuperLink."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynclave.deployment import Deployment, down, up
from asynclave.deployment.flower import create_node_key, flower_environment
from asynclave.deployment.processes import Program, free_port, program_path, started_at
from tests.deployment.conftest import descendants
from tests.deployment.flower_cli import flwr, ticks

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(400)]

KEPT = [sys.executable, "-m", "fl_client.supernode"]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    state = tmp_path_factory.mktemp("supernode") / "state"
    try:
        yield up(state, 1, False)
    finally:
        down(state)


def node(deployment: Deployment, command: list[str], key: Path, name: str) -> Program:
    arguments = [
        *("--superlink", deployment.status.superlink),
        *("--root-certificates", str(deployment.state.tls / "ca.pem")),
        *("--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    home = deployment.state.root / "homes" / name
    home.mkdir(exist_ok=True)
    log = deployment.state.logs / f"{name}.log"
    return Program(name, [*command, *arguments], flower_environment(home), log)


def admissions(log: Path) -> int:
    return log.read_text().count("SuperNode ID:")


def wait_for(
    condition: str, deployment: Deployment, log: Path, admitted: int, limit: float
) -> None:
    for _ in ticks(limit, step=0.2):
        if admissions(log) == admitted:
            return
    raise AssertionError(f"{condition}: {log.read_text()}")


def supernode_under(keeper: int) -> int:
    """Return the process of the SuperNode that a keeper runs."""
    for pid in descendants(keeper):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if "flower-supernode" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
    raise AssertionError("there is no SuperNode")


def test_a_killed_supernode_is_back_without_being_refused(deployment: Deployment) -> None:
    # given
    log = deployment.state.logs / "node-0.log"
    keeper = deployment.status.pids["node-0"]
    wait_for("the first admission", deployment, log, 1, 10)
    # when
    os.kill(supernode_under(keeper), signal.SIGKILL)
    # then
    wait_for("the second admission", deployment, log, 2, 50)
    assert "Exit Code" not in log.read_text()
    assert started_at(keeper)
    (listed,) = flwr(deployment.environment, "supernode", "list")["nodes"]
    assert listed["status"] == "online"


def test_refused_for_a_while_and_refused_for_good_are_told_apart(
    deployment: Deployment, tmp_path: Path
) -> None:
    # given a SuperNode that was killed with nobody to say goodbye for it
    key = create_node_key(tmp_path, "lost")
    flwr(deployment.environment, "supernode", "register", f"{key}.pub")
    lost = node(deployment, [program_path("flower-supernode")], key, "lost")
    wait_for("the first admission", deployment, lost.log, 1, 20)
    os.kill(lost.pid, signal.SIGKILL)
    lost.reap(5)
    # when it is started again, and a stranger beside it
    again = node(deployment, KEPT, key, "lost")
    stranger = node(deployment, KEPT, create_node_key(tmp_path, "stranger"), "stranger")
    try:
        # then the first is refused until the SuperLink has forgotten it
        wait_for("the second admission", deployment, again.log, 2, 150)
        assert "Exit Code: 305" in again.log.read_text()
        # and the stranger for good
        for _ in ticks(120, step=0.2):
            if not stranger.alive():
                break
        assert "NODE_NOT_ADMITTED" in stranger.log.read_text()
        assert again.alive()
    finally:
        for program in (again, stranger):
            program.terminate()
            program.reap(15)


def test_a_supernode_that_cannot_run_is_given_up_at_once(
    deployment: Deployment, tmp_path: Path
) -> None:
    key = tmp_path / "no-key"
    key.write_text("this is no key")
    broken = node(deployment, KEPT, key, "broken")
    broken.reap(30)
    assert "NODE_MISCONFIGURED" in broken.log.read_text()
    assert broken.log.read_text().count("Starting Flower SuperNode") == 1


def test_a_superlink_that_is_away_is_waited_for(deployment: Deployment, tmp_path: Path) -> None:
    # given a SuperNode that finds nobody: Flower itself tries again, at 503 as well
    key = create_node_key(tmp_path, "early")
    home = tmp_path / "home"
    arguments = [
        *("--superlink", f"127.0.0.1:{free_port()}"),
        *("--root-certificates", str(deployment.state.tls / "ca.pem")),
        *("--auth-supernode-private-key", str(key), "--port", str(free_port())),
    ]
    early = Program("early", [*KEPT, *arguments], flower_environment(home), tmp_path / "log")
    for _ in ticks(20, step=0.2):
        if early.log.read_text().count("Connection attempt failed, retrying") >= 2:
            break
    # then it is still the same one, and a stop ends it
    assert early.log.read_text().count("Starting Flower SuperNode") == 1
    early.terminate()
    early.reap(15)
    assert "SuperNode ended" not in early.log.read_text()
