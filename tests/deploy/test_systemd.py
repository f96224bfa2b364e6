from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from asynclave.deployment.federation import FederationSpec, init
from fl_client.supernode.policy import NodeCode, NodeRefused
from tests.deploy.owners import (
    AS_ROOT,
    GATEWAYS_USER,
    assert_only_the_launchers_socket_is_opened,
    assert_roots_files_are_safe,
)
from tests.deploy.units import NAMES, UNITS

FLOWERS_USER = "asynclave-server"
FLOWERS_UNITS = ("asynclave-superexec.service", "asynclave-superlink.service")

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
        user = FLOWERS_USER if name in FLOWERS_UNITS else "asynclave"
        assert f"\nUser={user}\nGroup={user}\n" in text
        assert "\nCapabilityBoundingSet=\n" in text


@pytest.mark.parametrize("name", FLOWERS_UNITS)
def test_submitted_code_is_kept_from_the_gateways_keys_and_processes(name: str) -> None:
    text = (UNITS / name).read_text()
    assert "\nInaccessiblePaths=-/var/lib/asynclave/trusted\n" in text
    assert "\nProtectProc=invisible\n" in text


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None, reason="systemd-sysusers is not installed"
)
def test_the_users_of_the_units_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    made = subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "asynclave.sysusers")],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    users = {line.split(":")[0] for line in (tmp_path / "etc" / "passwd").read_text().splitlines()}
    texts = [(UNITS / name).read_text() for name in NAMES]
    named = {user for text in texts for user in re.findall(r"^User=(.*)$", text, re.M)}
    assert named == users == {"asynclave", FLOWERS_USER}


@AS_ROOT
def test_the_gateways_user_cannot_replace_what_root_starts(tmp_path: Path) -> None:
    # given a federation, with the owners that the page gives it
    fed = tmp_path / "federation"
    init(fed, FederationSpec(nodes=2, hosts=("asynclave",)))
    page = (UNITS.parents[1] / "docs" / "how-to" / "deploy.md").read_text()
    (block,) = re.findall(r"```sh\n(cp -r federation/superlink .*?)systemctl", page, re.S)
    home = tmp_path / "home"
    home.mkdir()
    script = block.replace("/var/lib/asynclave", str(home))
    for user, number in ((FLOWERS_USER, 10002), ("asynclave", GATEWAYS_USER)):
        script = re.sub(rf"\b{user}(?=[: ])", str(number), script)
        script = script.replace(f":{user} ", f":{number} ")
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True)
    # then
    assert_roots_files_are_safe(home / "trusted")
    assert {p.stat().st_uid for p in (home / "server", home / "superlink")} == {10002}
    assert home.stat().st_uid == 0


@AS_ROOT
def test_only_the_launchers_own_socket_is_opened_for_the_gateway(tmp_path: Path) -> None:
    text = (UNITS / "asynclave-enclave.service").read_text()
    (script,) = re.findall(r"^ExecStartPost=/bin/sh -c '(.*)'$", text, re.M)
    script = script.replace("chgrp asynclave ", f"chgrp {GATEWAYS_USER} ")
    assert_only_the_launchers_socket_is_opened(script, tmp_path)


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


def test_a_supernode_that_was_refused_for_good_is_not_started_again() -> None:
    (line,) = re.findall(
        r"^RestartPreventExitStatus=(.*)$",
        (UNITS / "asynclave-supernode.service").read_text(),
        re.M,
    )
    assert line.split() == [str(NodeRefused(code).status) for code in NodeCode]
