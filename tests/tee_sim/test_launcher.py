"""The launcher as a real process: attach, attest, replace, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fl_protocol.codes import Code, EvidenceRejected, GatewayUnavailable
from tee_sim import image
from tee_sim.channel import encode_head
from tee_sim.client import Opened
from tee_sim.control import Attachment, LauncherClient
from tee_sim.launch import CHANNELS
from tests.support.enclave import INITIAL, LAYOUT, RECIPE, described
from tests.support.platform_process import NONCE, SIGNER, Platform, platform
from tests.support.processes import lives, wait_until

__all__ = ["platform"]


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
