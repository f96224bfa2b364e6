from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynclave.deployment import Deployment, down, up
from asynclave.deployment.flower import flower_environment
from asynclave.deployment.processes import Program, free_port, program_path
from tests.deployment.flower_cli import ticks

_ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = _ROOT / "experiments" / "quickstart"
CANARY_APP = Path(__file__).with_name("canary_app")
SLOW_NODE = 2


@pytest.fixture(scope="session", autouse=True)
def app_packages() -> Iterator[None]:
    """Make the apps' packages importable here, as Flower does when it runs them."""
    sys.path[:0] = [str(QUICKSTART), str(CANARY_APP)]
    yield
    del sys.path[:2]


@pytest.fixture(scope="session")
def confidential(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three SuperNodes, the last one slow, with gateway and enclave."""
    state = tmp_path_factory.mktemp("confidential") / "state"
    try:
        yield up(state, 3, slow_node=SLOW_NODE)
    finally:
        down(state)


@pytest.fixture
def simulation_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which the connection "local" is a SuperLink that simulates nodes.

    The same command as the one `flwr run . local` would leave running in the background, but
    owned by the test.
    """
    environment = flower_environment(tmp_path / "flwr") | {"RAY_USAGE_STATS_ENABLED": "0"}
    (tmp_path / "flwr").mkdir()
    port = free_port()
    (tmp_path / "flwr" / "config.toml").write_text(
        f'[superlink.local]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    superlink = Program(
        "superlink",
        [
            *(program_path("flower-superlink"), "--insecure", "--simulation"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        environment,
        tmp_path / "superlink.log",
    )
    try:
        for _ in ticks(30, step=0.2):
            superlink.check()
            if "Uvicorn running" in superlink.log.read_text():
                break
        yield environment
    finally:
        superlink.terminate()
        superlink.reap(10)


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it, and what it detached into new sessions."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return [found_pid for found_pid in found if found_pid != os.getpid()]
