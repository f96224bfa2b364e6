from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.units import NAMES, UNITS

HARDENING = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "CapabilityBoundingSet=",
    "RestrictAddressFamilies=",
    "UMask=0077",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units with paths of programs that exist here; systemd looks for them."""
    folder = tmp_path_factory.mktemp("units")
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in NAMES:
        lines = (UNITS / name).read_text().splitlines()
        text = "\n".join(
            f"ExecStart={program} {line.partition(' ')[2]}"
            if line.startswith("ExecStart=/opt/asynclave/bin/")
            else line
            for line in lines
        )
        (folder / name).write_text(text)
    return folder


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong(installed: Path, name: str) -> None:
    instance = installed / name.replace("@.", "@0.")
    if instance.name != name:
        instance.write_text((installed / name).read_text())
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(instance)],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{installed}:", "PATH": "/usr/bin:/bin"},
    )
    assert checked.returncode == 0, checked.stderr
    # An unknown or mistyped setting is a warning, which leaves the status zero.
    assert str(instance) not in checked.stderr, checked.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_unit_is_confined_and_comes_back(name: str) -> None:
    text = (UNITS / name).read_text()
    for setting in HARDENING:
        assert f"\n{setting}" in text, setting
    assert "\nRestart=" in text and "\nRestartSec=" in text
    if name != "asynclave-enclave.service":
        assert "\nUser=asynclave\n" in text and "\nCapabilityBoundingSet=\n" in text


def test_a_mistyped_setting_would_be_found(installed: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    wrong = installed / "wrong.service"
    wrong.write_text("[Service]\nExecStart=/bin/true\nProtectSytem=strict\n")
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(wrong)],
        capture_output=True,
        text=True,
    )
    assert str(wrong) in checked.stderr
