"""What the doctor says of the machine around the enclave."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from asynclave.doctor import host
from asynclave.doctor.finding import Finding, State
from asynclave.doctor.host import host_findings
from fl_protocol.identity import IdentityStore
from fl_protocol.ports import SystemRng


def finding(findings: list[Finding], name: str) -> Finding:
    return next(found for found in findings if found.name == name)


def test_names_the_versions_that_are_installed(tmp_path: Path) -> None:
    findings = list(host_findings(tmp_path))
    for name in ("python", "flwr", "numpy", "cryptography", "grpcio", "torch"):
        assert finding(findings, name).topic == "packages"
        assert finding(findings, name).state is State.OK


@pytest.mark.parametrize(
    ("requirement", "state"),
    [
        ("numpy>=2", State.OK),
        ("numpy<1", State.BAD),
        ("no-such-package>=1", State.BAD),
        ("no-such-package>=1; extra == 'torch'", State.WEAK),
    ],
)
def test_a_package_is_held_against_what_was_tested(requirement: str, state: State) -> None:
    wanted = Requirement(requirement)
    found = host._package(wanted.name, wanted)
    assert found.state is state
    assert found.advice.startswith("pip install") or state is State.OK


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(host, "_SUPERLINK_PORTS", (port,))
        found = finding(list(host_findings(tmp_path)), "SuperLink's usual ports")
    assert (found.state, str(port) in found.found) == (State.WEAK, True)


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, State.OK),
        ({"HTTPS_PROXY": "http://proxy"}, State.WEAK),
        ({"https_proxy": "http://proxy", "NO_PROXY": "127.0.0.1"}, State.WEAK),
        ({"https_proxy": "http://proxy", "no_proxy": "127.0.0.1, localhost"}, State.OK),
        ({"all_proxy": "http://proxy", "NO_PROXY": "*"}, State.OK),
    ],
    ids=str,
)
def test_a_proxy_that_would_get_loopback_calls_is_named(
    environment: dict[str, str], state: State
) -> None:
    assert host._proxy(environment).state is state


def test_a_key_that_others_may_read_is_named(tmp_path: Path) -> None:
    IdentityStore(tmp_path / "node").load_or_create(SystemRng())
    path = tmp_path / "node" / "identity.json"
    assert finding(list(host_findings(tmp_path)), str(tmp_path)).state is State.OK
    os.chmod(path, 0o640)
    found = finding(list(host_findings(tmp_path)), str(path))
    assert (found.state, found.advice) == (State.BAD, f"chmod 600 {path}")


def test_a_folder_without_keys_is_fine(tmp_path: Path) -> None:
    found = finding(list(host_findings(tmp_path)), str(tmp_path))
    assert (found.state, found.found) == (State.OK, "no keys or bundles here")
