"""What the gateway's user can do in the folder that it shares with the launcher."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes owners and users")
GATEWAYS_USER = 10001


def assert_roots_files_are_safe(trusted: Path) -> None:
    """Try, as the gateway's user, what would give it a say in what root starts."""
    for script in (
        "mv launcher.json mine",
        "rm -f launcher.json",
        "mv platform mine",
        "cat platform/platform.key",
        "touch platform/mine",
        "echo > launcher.json",
        "chmod 0777 .",
    ):
        assert not allowed(script, trusted), script
    # And what a gateway needs: its keys, and files of its own, which it replaces.
    for script in (
        "cat issuer.key token.key hop.key registry.sqlite gateway-0.json > /dev/null",
        "mkdir journal && touch journal/1 && rm -r journal",
        "echo 1 > new && mv new token.key",
    ):
        assert allowed(script, trusted), script
    assert stat.S_IMODE((trusted / "launcher.json").stat().st_mode) == 0o600


def assert_only_the_launchers_socket_is_opened(script: str, folder: Path) -> None:
    """Run what opens the socket while its name leads to another socket of root, at first."""
    # given
    (folder / "platform").mkdir(mode=0o700)
    for name in ("other", "new"):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / name))
        (folder / name).chmod(0o600)
    link = folder / "launcher.sock"
    link.symlink_to("other")
    # As systemd names the launcher.
    environment = {**os.environ, "MAINPID": str(os.getpid())}
    with subprocess.Popen(["sh", "-c", script], cwd=folder, env=environment) as running:
        while not (folder / "platform" / "socket").is_symlink():
            assert running.poll() is None
        # when the launcher puts its own there
        (folder / "new").replace(link)
    # then that one is opened, and the other was not
    assert running.returncode == 0
    opened, other = link.lstat(), (folder / "other").stat()
    assert stat.S_IMODE(opened.st_mode) == 0o660 and opened.st_gid == GATEWAYS_USER
    assert stat.S_IMODE(other.st_mode) == 0o600 and other.st_gid == 0
    assert list((folder / "platform").iterdir()) == []


def allowed(script: str, folder: Path, user: int = GATEWAYS_USER) -> bool:
    """Tell if a user, who is in a group of the same number, can run a script in a folder."""
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return done.returncode == 0
