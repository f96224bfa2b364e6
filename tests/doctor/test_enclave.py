"""What the doctor finds out about a real enclave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynclave.doctor import enclave
from asynclave.doctor.enclave import enclave_findings
from asynclave.doctor.finding import Finding, State
from tee_sim.launch import BootOptions
from tee_sim.lockdown import LAYERS

TRIED_OR_SEEN = (
    "no_core_dump",
    "no_new_privileges",
    "no_processes",
    "no_executable_memory",
    "landlock",
    "no_new_files",
    "seccomp",
)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_every_layer_is_looked_at_and_most_are_confirmed_not_believed() -> None:
    found = by_name(list(enclave_findings()))
    assert set(found) == {"start", *LAYERS, "hardware"}
    for layer in TRIED_OR_SEEN:
        assert found[layer] == Finding("enclave", layer, State.OK, "active, confirmed")
    assert found["hardware"].state is State.WEAK


def test_a_layer_that_is_left_out_is_weak_and_has_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(user: int | None, hop_key: bytes) -> BootOptions:
        return BootOptions(user, hop_key, skip_layers=("landlock", "seccomp"))

    monkeypatch.setattr(enclave, "BootOptions", without)
    found = by_name(list(enclave_findings()))
    for layer in ("landlock", "seccomp"):
        assert found[layer].state is State.WEAK
        assert found[layer].found == "inactive (switched off)"
        assert found[layer].advice


def test_a_layer_that_is_reported_but_does_not_hold_is_bad() -> None:
    assert enclave._layer("landlock", "active", False).state is State.BAD
    assert enclave._layer("landlock", "active", None).found == "active, as the enclave reports"


@pytest.fixture(scope="module")
def probe() -> Iterator[enclave._Probe]:
    made = enclave._Probe()
    yield made
    made.close()


def all_but(*layers: str) -> tuple[str, ...]:
    return tuple(layer for layer in LAYERS if layer not in (*layers, "no_new_privileges"))


@pytest.mark.parametrize("layer", ["landlock", "no_new_files", "no_executable_memory"])
def test_each_layer_alone_refuses_its_attempt(probe: enclave._Probe, layer: str) -> None:
    assert probe.refusals(*all_but(layer)) == {layer: True}


@pytest.mark.skipif(os.geteuid() != 0, reason="the limit on processes binds everybody but root")
def test_an_attempt_that_nothing_refuses_is_told(probe: enclave._Probe) -> None:
    assert probe.refusals(*all_but("no_processes")) == {"no_processes": False}


def test_without_seccomp_nothing_kills_the_probe(probe: enclave._Probe) -> None:
    assert probe.is_killed()
    assert probe._run(all_but())[1] == 0


def test_an_enclave_that_does_not_start_is_one_bad_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(state: Path) -> None:
        raise OSError("no sealed files here")

    monkeypatch.setattr(enclave, "_start", fail)
    (found,) = enclave_findings()
    assert (found.state, found.found) == (State.BAD, "no sealed files here")


def test_the_command_prints_one_object_and_tells_by_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "issuer.key").write_bytes(bytes(32))
    (tmp_path / "issuer.key").chmod(0o644)
    command = [sys.executable, "-m", "asynclave", "doctor", "--state-dir", str(tmp_path)]
    bad = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    states = {f["name"]: f["state"] for f in json.loads(bad.stdout)["findings"]}
    assert (bad.returncode, states[str(tmp_path / "issuer.key")]) == (1, "bad")
    (tmp_path / "issuer.key").chmod(0o600)
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout
    assert "0 bad" in good.stdout
