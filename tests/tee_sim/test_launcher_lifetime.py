"""How a launcher starts, ends, and says why it cannot."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fl_protocol.codes import ConfigInvalid
from tee_sim.certificates import create_root
from tee_sim.control import LauncherClient
from tee_sim.launcher_config import LauncherConfig
from tests.support.platform_process import SIGNER, Platform, platform
from tests.support.processes import lives, wait_until

__all__ = ["platform"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_takes_the_enclave_along(platform: Platform, number: int) -> None:
    enclave = platform.enclave_pid
    platform.process.send_signal(number)
    assert platform.process.wait(10) == 0
    assert not lives(enclave)
    assert not platform.socket.exists()


def test_enclave_dies_with_a_killed_launcher(platform: Platform) -> None:
    enclave = platform.enclave_pid
    platform.process.kill()
    platform.process.wait(10)
    wait_until(lambda: not lives(enclave))


def test_launcher_ends_with_the_process_it_was_told_to_watch(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as parent:
        platform = Platform(tmp_path, parent_pid=parent.pid)
        enclave = platform.enclave_pid
        parent.kill()
    assert platform.process.wait(20) == 0
    assert not lives(enclave)


async def test_a_second_launcher_on_the_same_state_is_refused(platform: Platform) -> None:
    command = [sys.executable, "-m", "tee_sim.launcher", str(platform.path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("tee_sim.launcher: STATE_IN_USE")
    launcher = LauncherClient(platform.socket, SIGNER)
    assert (await launcher.attach()).pid == platform.enclave_pid
    launcher.close()


async def test_a_killed_launcher_leaves_no_lock_behind(platform: Platform) -> None:
    platform.process.kill()
    platform.process.wait(10)
    platform.socket.unlink()
    platform.process = platform.start()
    launcher = LauncherClient(platform.socket, SIGNER)
    assert (await launcher.attach()).epoch == 2
    assert Path(platform.config.state_dir, "lock").stat().st_mode & 0o777 == 0o600
    launcher.close()


@pytest.mark.parametrize("name", ["platform.key", "platform.pem", "state/epoch"])
def test_launcher_with_a_damaged_file_names_it(platform: Platform, name: str) -> None:
    platform.stop()
    (platform.path.parent / name).write_bytes(b"?")
    platform.refuses("CONFIG_INVALID", name)


def test_a_launcher_with_the_certificate_of_another_platform_says_so(
    platform: Platform, tmp_path: Path
) -> None:
    platform.stop()
    (tmp_path / "other").mkdir()
    other = create_root(tmp_path / "other").platform_chain
    Path(platform.config.platform_chain).write_bytes(other.read_bytes())
    platform.refuses("CONFIG_INVALID", "platform.pem")


def test_a_launcher_whose_socket_cannot_be_names_it(platform: Platform) -> None:
    platform.stop()
    long = f"{platform.socket}{'x' * 100}"
    replace(platform.config, socket=long).save(platform.path)
    platform.refuses("JOURNAL_FAILED", long)


def test_a_launcher_whose_folder_cannot_be_used_names_it(platform: Platform) -> None:
    platform.stop()
    state = platform.path.parent / "file" / "state"
    state.parent.touch()
    replace(platform.config, state_dir=str(state)).save(platform.path)
    platform.refuses("JOURNAL_FAILED", str(state))


def test_launcher_with_bad_settings_names_them(tmp_path: Path) -> None:
    path = tmp_path / "launcher.json"
    path.write_text('{"sockets": 3}')
    with pytest.raises(ConfigInvalid, match="state_dir"):
        LauncherConfig.load(path)
    command = [sys.executable, "-m", "tee_sim.launcher", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "CONFIG_INVALID" in result.stderr
