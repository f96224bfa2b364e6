"""A gateway's link to a real enclave that has stopped answering."""

from __future__ import annotations

import os
import signal

import pytest

from fl_server.gateway import enclave_link
from fl_server.gateway.enclave_link import EnclaveLink
from tee_sim.control import LauncherClient
from tests.tee_sim.test_launcher import NONCE, SIGNER, Platform, platform

__all__ = ["platform"]


async def test_a_gateway_that_starts_beside_a_hung_enclave_has_it_replaced(
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = EnclaveLink(LauncherClient(platform.socket, SIGNER))
    await before.attach()
    os.kill(platform.enclave_pid, signal.SIGSTOP)
    monkeypatch.setattr(enclave_link, "_REQUEST_SECONDS", 5.0)
    after = EnclaveLink(LauncherClient(platform.socket, SIGNER))
    await after.attach()
    assert (before.epoch, after.epoch) == (1, 2)
    platform.appraise(await after.evidence(NONCE), before.epoch)
    await before.close()
    await after.close()
