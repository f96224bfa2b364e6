"""The launcher as a real process: attach, attest, replace, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected, GatewayUnavailable
from fl_protocol.ports import SystemClock, SystemRng
from tee_sim import image
from tee_sim.appraisal import Attested, TrustPolicy
from tee_sim.certificates import create_root
from tee_sim.channel import encode_head
from tee_sim.client import Opened
from tee_sim.control import Attachment, LauncherClient
from tee_sim.hop import HopSigner
from tee_sim.launch import CHANNELS
from tee_sim.launcher_config import LauncherConfig
from tests.support.enclave import HOP_KEY, INITIAL, LAYOUT, RECIPE, described, policy_for
from tests.support.processes import lives, wait_until

NONCE = b"n" * 32
SIGNER = HopSigner(HOP_KEY, SystemClock(), SystemRng())


class Platform:
    """A launcher process and what a relying party needs to check it."""

    def __init__(self, folder: Path, **settings: object) -> None:
        files = create_root(folder)
        (folder / "hop.key").write_bytes(HOP_KEY)
        self.policy = policy_for(Ed25519PrivateKey.generate())
        self.socket = folder / "launcher.sock"
        self.config = LauncherConfig(
            state_dir=str(folder / "state"),
            socket=str(self.socket),
            policy=self.policy.to_members(),
            platform_key=str(files.platform_key),
            platform_chain=str(files.platform_chain),
            hop_key=str(folder / "hop.key"),
            **settings,  # type: ignore[arg-type]
        )
        self.trust = TrustPolicy(
            roots_of_trust=("simulated",),
            simulated_root_pem=files.root.read_text(),
            measurements=(image.measure(),),
        )
        self.path = folder / "launcher.json"
        self.config.save(self.path)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tee_sim.launcher", str(self.path)]
        process = subprocess.Popen(command)
        wait_until(lambda: self.socket.exists() or process.poll() is not None)
        assert process.poll() is None
        return process

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def refuses(self, code: str, named: str) -> None:
        """Start it, and see it end with a code and the name of what is wrong."""
        command = [sys.executable, "-m", "tee_sim.launcher", str(self.path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        *_, last = ended.stderr.splitlines()
        assert last.startswith(f"tee_sim.launcher: {code}: ") and named in last, ended.stderr

    @property
    def enclave_pid(self) -> int:
        return int(Path(self.config.state_dir, "enclave.pid").read_text())

    def appraise(self, evidence: bytes, last_epoch: int = 0) -> Attested:
        return self.trust.appraise(evidence, NONCE, last_epoch, SystemClock())


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    platform = Platform(tmp_path)
    yield platform
    platform.stop()


async def open_run(attachment: Attachment) -> Opened:
    recipe = json.dumps(described(RECIPE))
    return await attachment.client.open_run("run-1", LAYOUT.to_json(), recipe, [INITIAL.tobytes()])


async def test_attached_enclave_is_the_attested_one(platform: Platform) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    attachment = await launcher.attach()
    attested = platform.appraise(await launcher.evidence(NONCE))
    assert attested.epoch == attachment.epoch == 1
    assert attested.policy == platform.policy
    opened = await open_run(attachment)
    assert (opened.epoch, opened.version) == (1, 0)
    assert attachment.pid == platform.enclave_pid
    launcher.close()


@pytest.mark.parametrize(
    ("key", "other", "taken"),
    [("socket", "other.sock", "the saved state in"), ("state_dir", "other", "the socket")],
)
async def test_a_second_launcher_takes_neither_state_nor_socket_of_the_first(
    platform: Platform, tmp_path: Path, key: str, other: str, taken: str
) -> None:
    path = tmp_path / "second.json"
    replace(platform.config, **{key: str(tmp_path / other)}).save(path)

    command = [sys.executable, "-m", "tee_sim.launcher", str(path)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert second.returncode == 1
    assert f"STATE_IN_USE: Another launcher uses {taken}" in second.stderr
    launcher = LauncherClient(platform.socket, SIGNER)
    assert (await launcher.attach()).pid == platform.enclave_pid
    launcher.close()


async def test_measurement_is_the_one_clients_compute(platform: Platform) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    assert platform.appraise(await launcher.evidence(NONCE)).measurement == image.measure()
    launcher.close()


async def test_attaching_again_gives_the_same_enclave_and_cuts_the_first_off(
    platform: Platform,
) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    first = await launcher.attach()
    opened = await open_run(first)
    before = platform.appraise(await launcher.evidence(NONCE))
    second = await launcher.attach()
    after = platform.appraise(await launcher.evidence(NONCE), before.epoch)
    assert (second.epoch, second.pid) == (first.epoch, first.pid)
    assert (after.hpke_key, after.receipt_key) == (before.hpke_key, before.receipt_key)
    with pytest.raises(GatewayUnavailable):
        await first.client.status()
    status = await second.client.status()
    assert (status["run_id"], status["version"]) == ("run-1", opened.version)
    assert status["model_bytes"] == INITIAL.nbytes
    launcher.close()


async def test_an_enclave_that_does_not_answer_is_replaced(platform: Platform) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    first = await launcher.attach()
    before = platform.appraise(await launcher.evidence(NONCE))
    os.kill(first.pid, signal.SIGSTOP)
    second = await launcher.attach(replace=first.epoch)
    after = platform.appraise(await launcher.evidence(NONCE), before.epoch)
    assert (first.epoch, second.epoch) == (1, 2)
    assert after.hpke_key != before.hpke_key
    assert not lives(first.pid)
    assert (await second.client.status())["run_id"] == ""
    # Somebody else who had waited for the first one does not end the second.
    other = LauncherClient(platform.socket, SIGNER)
    assert (await other.attach(replace=first.epoch)).epoch == second.epoch
    assert (await second.client.status())["epoch"] == second.epoch
    launcher.close()
    other.close()


async def test_two_gateways_have_the_same_enclave_at_once(platform: Platform) -> None:
    launchers = [LauncherClient(platform.socket, SIGNER) for _ in range(2)]
    first, second = [await launcher.attach() for launcher in launchers]
    await open_run(first)
    for _ in range(3):
        answers = await asyncio.gather(first.client.status(), second.client.status())
        assert [answer["run_id"] for answer in answers] == ["run-1"] * 2
    # One of them that attaches again leaves the other alone.
    again = await launchers[0].attach()
    assert (await second.client.status())["run_id"] == "run-1"
    assert (await again.client.status())["run_id"] == "run-1"
    with pytest.raises(GatewayUnavailable):
        await first.client.status()
    for launcher in launchers:
        launcher.close()


async def test_a_gateway_that_dies_in_the_middle_of_a_frame_is_not_waited_for(
    platform: Platform,
) -> None:
    dying, other = (LauncherClient(platform.socket, SIGNER) for _ in range(2))
    first, second = await dying.attach(), await other.attach()
    await open_run(second)
    header = SIGNER.sign({"op": "OPEN_RUN", "run_id": "run-2", "version": 0})
    await first.client._stream.send(
        (
            encode_head(header, 1000),
            bytes(500),
        )
    )
    waiting = asyncio.create_task(second.client.status())
    # The kernel closes all sockets of a process that is killed, this one first or last.
    dying.close()
    assert (await waiting)["run_id"] == "run-1"
    first.client.close()
    other.close()


async def test_a_gateway_that_gets_stuck_in_the_middle_of_a_frame_is_dropped(
    platform: Platform,
) -> None:
    stuck, other = (LauncherClient(platform.socket, SIGNER) for _ in range(2))
    first, second = await stuck.attach(), await other.attach()
    await open_run(second)
    header = SIGNER.sign({"op": "OPEN_RUN", "run_id": "run-2", "version": 0})
    await first.client._stream.send(
        (
            encode_head(header, 1000),
            bytes(500),
        )
    )
    assert (await second.client.status())["run_id"] == "run-1"
    with pytest.raises(GatewayUnavailable):
        await first.client.status()
    assert (await (await stuck.attach()).client.status())["run_id"] == "run-1"
    stuck.close()
    other.close()


async def test_a_request_that_breaks_off_changes_nothing(platform: Platform) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    first = await launcher.attach()
    await open_run(first)
    # A body of which half arrives, as from a gateway that is killed while it sends.
    header = SIGNER.sign({"op": "OPEN_RUN", "run_id": "run-2", "version": 0})
    await first.client._stream.send((encode_head(header, 1000), bytes(500)))
    first.client.close()
    again = await launcher.attach()
    status = await again.client.status()
    assert (again.epoch, status["run_id"]) == (1, "run-1")
    launcher.close()


async def test_when_its_sockets_are_used_up_the_enclave_is_replaced(platform: Platform) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    epochs = [(await launcher.attach()).epoch for _ in range(CHANNELS + 2)]
    assert epochs == [1] * CHANNELS + [2] * 2
    launcher.close()


async def test_killed_enclave_is_replaced_under_a_new_epoch(platform: Platform) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    first = await launcher.attach()
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not lives(first.pid))
    with pytest.raises(GatewayUnavailable):
        await first.client.status()
    second = await launcher.attach()
    assert second.epoch == 2
    assert (await second.client.status())["run_id"] == ""
    launcher.close()


async def test_the_enclave_outlives_whoever_attached(platform: Platform) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    first = await launcher.attach()
    await open_run(first)
    first.client.close()
    launcher.close()
    again = LauncherClient(platform.socket, SIGNER)
    second = await again.attach()
    assert (second.epoch, second.pid) == (1, first.pid)
    assert (await second.client.status())["run_id"] == "run-1"
    again.close()


async def test_onlookers_leave_the_enclave_alone(platform: Platform) -> None:
    launcher, onlooker = (LauncherClient(platform.socket, SIGNER) for _ in range(2))
    attachment = await launcher.attach()
    await onlooker.evidence(NONCE)
    onlooker.close()
    await launcher.evidence(NONCE)
    assert (await attachment.client.status())["epoch"] == attachment.epoch
    launcher.close()


async def test_unsuitable_challenge_is_refused(platform: Platform) -> None:
    launcher = LauncherClient(platform.socket, SIGNER)
    with pytest.raises(EvidenceRejected) as caught:
        await launcher.evidence(b"short")
    assert caught.value.code == Code.EVIDENCE_NONCE
    assert platform.appraise(await launcher.evidence(NONCE)).epoch == 1
    launcher.close()


async def test_nonsense_on_the_control_socket_is_answered(platform: Platform) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(str(platform.socket))
        for packet in (b"nonsense", b'{"op":"DUMP"}', b'{"op":"EVIDENCE"}'):
            raw.send(packet)
            assert b'"ok":false' in raw.recv(4096)


def test_control_socket_is_its_owners_only(platform: Platform) -> None:
    assert platform.socket.stat().st_mode & 0o777 == 0o600


async def test_epochs_go_on_after_a_restart_of_the_launcher(platform: Platform) -> None:
    platform.stop()
    platform.process = platform.start()
    launcher = LauncherClient(platform.socket, SIGNER)
    assert (await launcher.attach()).epoch == 2
    launcher.close()


async def test_no_launcher_means_unavailable(tmp_path: Path) -> None:
    with pytest.raises(GatewayUnavailable) as caught:
        await LauncherClient(tmp_path / "nobody.sock", SIGNER).attach()
    assert caught.value.code == Code.ENCLAVE_UNAVAILABLE


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
