"""A gateway's link to a real enclave that has stopped answering, or is busy."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from fl_protocol.codes import RunRejected
from fl_server.gateway import enclave_link
from fl_server.gateway.enclave_link import EnclaveLink
from tee_sim.control import LauncherClient
from tests.support.platform_process import NONCE, SIGNER, Platform, platform

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


async def test_what_is_known_of_the_run_is_used_while_a_request_is_under_way(
    platform: Platform,
) -> None:
    link = EnclaveLink(LauncherClient(platform.socket, SIGNER))
    await link.attach()
    os.kill(platform.enclave_pid, signal.SIGSTOP)
    under_way = asyncio.create_task(link.get_records(0))
    while not link._turn.locked():
        await asyncio.sleep(0)
    with pytest.raises(RunRejected):
        await asyncio.wait_for(link.check_size(0), 5)
    assert not under_way.done()
    os.kill(platform.enclave_pid, signal.SIGCONT)
    await under_way
    await link.close()


async def test_closing_beside_a_hung_enclave_ends_what_is_under_way(platform: Platform) -> None:
    link = EnclaveLink(LauncherClient(platform.socket, SIGNER))
    await link.attach()
    os.kill(platform.enclave_pid, signal.SIGSTOP)
    under_way = [asyncio.create_task(link.get_records(0)) for _ in range(2)]
    while not link._turn.locked():
        await asyncio.sleep(0)
    await asyncio.wait_for(link.close(), 5)
    ended = await asyncio.gather(*under_way, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in ended)
