from __future__ import annotations

import os
import re
import shutil
import sqlite3
import ssl
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from asynclave.deployment.federation import FederationSpec, init
from fl_client.supernode.policy import NodeCode, NodeRefused
from fl_server.gateway.registry import digest
from tests.deploy.owners import (
    AS_ROOT,
    GATEWAYS_USER,
    allowed,
    assert_only_the_launchers_socket_is_opened,
    assert_roots_files_are_safe,
)
from tests.deploy.units import NAMES, UNITS

FLOWERS_USER, ENVOYS_USER = "asynclave-server", "asynclave-envoy"
FLOWERS_UNITS = ("asynclave-superexec.service", "asynclave-superlink.service")
ENVOYS_UNITS = ("asynclave-envoy.service", "asynclave-key-set.service")
USERS = {**dict.fromkeys(FLOWERS_UNITS, FLOWERS_USER), **dict.fromkeys(ENVOYS_UNITS, ENVOYS_USER)}
NUMBERS = {FLOWERS_USER: 10002, ENVOYS_USER: 10003, "asynclave": GATEWAYS_USER}
HOW_TO = UNITS.parents[1] / "docs" / "how-to"
DEPLOY_PAGE = (HOW_TO / "deploy.md").read_text()

HARDENING = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "CapabilityBoundingSet=",
    "RestrictAddressFamilies=",
    "UMask=0077",
    "LimitCORE=0",
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
        user = USERS.get(name, "asynclave")
        assert f"\nUser={user}\nGroup={user}\n" in text
        assert "\nCapabilityBoundingSet=\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_systemd_never_gives_a_unit_up(name: str) -> None:
    # Five starts within ten seconds are its limit.
    text = (UNITS / name).read_text()
    (pause,) = re.findall(r"^RestartSec=(\d+)$", text, re.M)
    assert 5 * int(pause) >= 10 or "\nStartLimitIntervalSec=0\n" in text


@pytest.mark.parametrize("name", USERS)
def test_others_are_kept_from_the_gateways_keys(name: str) -> None:
    assert "\nInaccessiblePaths=-/var/lib/asynclave/trusted\n" in (UNITS / name).read_text()


@pytest.mark.parametrize("name", ["superexec", "supernode", "executor"])
def test_apps_have_a_home_that_they_can_write_to(name: str) -> None:
    text = (UNITS / f"asynclave-{name}.service").read_text()
    (home,) = re.findall(r"^Environment=HOME=(\S+)$", text, re.M)
    assert f"\nReadWritePaths={home}\n" in text and f"\nWorkingDirectory={home}\n" in text


@pytest.mark.parametrize("name", FLOWERS_UNITS)
def test_submitted_code_is_kept_from_the_gateways_processes(name: str) -> None:
    assert "\nProtectProc=invisible\n" in (UNITS / name).read_text()


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
    assert named == users == NUMBERS.keys()


def numbered(script: str, home: Path) -> str:
    """Replace the users of the units, which need not exist here, by numbers, and their home."""
    names = sorted(NUMBERS, key=len, reverse=True)
    script = script.replace("/var/lib/asynclave", str(home))
    for name in names:
        script = re.sub(rf"(?<=[ :]){name}(?=[: ])", str(NUMBERS[name]), script)
    return script


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A server's folders with the owners that the page gives them."""
    init(tmp_path / "federation", FederationSpec(nodes=2, hosts=("asynclave",), gateways=2))
    (block,) = re.findall(r"```sh\n(cp -r federation/superlink .*?)systemctl", DEPLOY_PAGE, re.S)
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    subprocess.run(["sh", "-euc", numbered(block, home)], cwd=tmp_path, check=True)
    return home


@AS_ROOT
def test_the_gateways_user_cannot_replace_what_root_starts(home: Path) -> None:
    assert_roots_files_are_safe(home / "trusted")
    assert {p.stat().st_uid for p in (home / "server", home / "superlink")} == {10002}
    assert home.stat().st_uid == 0


@AS_ROOT
def test_envoy_has_the_key_of_its_certificate_and_no_other(home: Path) -> None:
    page = (HOW_TO / "scale-out.md").read_text()
    (block,) = re.findall(r"```sh\n(cd /var/lib/asynclave\ninstall .*?)systemctl", page, re.S)
    script = numbered(block, home).replace("/opt/asynclave/bin/python", sys.executable)
    script = script.replace("/opt/asynclave", str(UNITS.parents[1]))
    subprocess.run(["sh", "-euc", script], cwd=home, check=True)
    envoy, number = home / "envoy", NUMBERS[ENVOYS_USER]
    for own in ("ca.pem", "server.pem", "server.key", "envoy.yaml"):
        assert allowed(f"cat {own} > /dev/null", envoy, number), own
        assert not allowed(f"echo >> {own}", envoy, number), own
    assert allowed("echo > key-set/jwks.json", envoy, number)
    named = set(re.findall(rf"{home}/[\w./-]+", (envoy / "envoy.yaml").read_text()))
    assert len(named) >= 4
    for file in named:
        assert allowed(f"test -r {Path(file).relative_to(home)}", home, number), file
    assert not allowed("touch mine", envoy, number)
    for key in ("issuer.key", "token.key", "hop.key", "server.key", "registry.sqlite"):
        assert allowed(f"cat trusted/{key} > /dev/null", home), key
        assert not allowed(f"cat trusted/{key}", home, number), key


@AS_ROOT
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux is not installed")
def test_tickets_and_revocations_are_made_by_the_gateways_user(home: Path) -> None:
    (block,) = re.findall(r"```sh\n(cd \S+/trusted\nsetpriv .*?)```", DEPLOY_PAGE, re.S)
    # pytest's folders are closed to others.
    with tempfile.TemporaryDirectory() as folder:
        open_home = Path(folder) / "home"
        subprocess.run(["cp", "-a", home, open_home], check=True)
        Path(folder).chmod(0o755)
        script = numbered(block, open_home).replace("/opt/asynclave/bin/python", sys.executable)
        command, _, program = script.partition(" - <<")
        probe = f"{command} -c 'import fl_server.gateway.registry'"
        if program and subprocess.run(["sh", "-euc", probe], capture_output=True).returncode:
            pytest.skip("other users cannot run this interpreter")
        done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # Only read: root may not write there.
        with closing(sqlite3.connect(open_home / "trusted" / "registry.sqlite")) as registry:
            ticket = registry.execute(
                "SELECT name FROM tickets WHERE hash = ?", [digest(done.stdout.strip())]
            )
            assert ticket.fetchall() == [("node-0",)]
            revoked = registry.execute("SELECT kind, value FROM revoked").fetchall()
            assert revoked == [("client", "node-0-73239ee5")]
        made = (open_home / "trusted").glob("registry.sqlite*")
        assert {file.stat().st_uid for file in made} == {GATEWAYS_USER}


@AS_ROOT
def test_certificates_can_be_renewed(home: Path, tmp_path: Path) -> None:
    make, install = re.findall(
        r"```sh\n((?:\S+ -P - <<'END'\nfrom datetime|cd \S+\ninstall).*?)(?:systemctl|```)",
        DEPLOY_PAGE,
        re.S,
    )
    before = [(home / name / "server.pem").read_bytes() for name in ("superlink", "trusted")]
    script = numbered(f"{make}{install}", home).replace("/opt/asynclave/bin/python", sys.executable)
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True)
    for name, number, old in zip(
        ("superlink", "trusted"), (10002, GATEWAYS_USER), before, strict=True
    ):
        certificate, key = home / name / "server.pem", home / name / "server.key"
        assert certificate.read_bytes() != old
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        assert key.stat().st_uid == number and stat.S_IMODE(key.stat().st_mode) == 0o600


def opening() -> str:
    """Return the script that opens the launcher's socket."""
    text = (UNITS / "asynclave-enclave.service").read_text()
    (script,) = re.findall(r"^ExecStartPost=/bin/sh -c '(.*)'$", text, re.M)
    return str(script).replace("chgrp asynclave ", f"chgrp {GATEWAYS_USER} ")


@AS_ROOT
def test_only_the_launchers_own_socket_is_opened_for_the_gateway(tmp_path: Path) -> None:
    assert_only_the_launchers_socket_is_opened(opening(), tmp_path)


def test_a_launcher_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "platform").mkdir()
    with subprocess.Popen(["true"]) as launcher:
        launcher.wait()
    environment = {"PATH": os.environ["PATH"], "MAINPID": str(launcher.pid)}
    command = ["sh", "-c", opening()]
    assert subprocess.run(command, cwd=tmp_path, env=environment, timeout=60).returncode == 1


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
