"""The enclave's service on a clock the test moves; the same code as in the process."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code
from fl_protocol.ports import SystemRng
from tee_sim.channel import Channel
from tee_sim.enclave.memory import ReleaseMemory
from tee_sim.enclave.service import EnclaveService, EnclaveSpent, Keys
from tee_sim.hop import HopSigner, HopVerifier
from tests.support.clock import SetClock
from tests.support.enclave import (
    EPOCH,
    HOP_KEY,
    Lab,
    MemoryVault,
    Update,
    fresh_run,
    policy_for,
)

START = 1_800_000_000


class _Following:
    """The gateway's clock, which shows the host's time but does not break with it."""

    def __init__(self, host: SetClock) -> None:
        self._host = host

    def now(self) -> float:
        return self._host.time

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


class LocalLab(Lab):
    """The service in this process, its host's clock in the test's hand."""

    def __init__(self) -> None:
        self.issuer, self.epoch, self.run_id = Ed25519PrivateKey.generate(), EPOCH, fresh_run()
        self.policy = policy_for(self.issuer)
        self.clock = SetClock(float(START))
        private = Keys()
        self.keys = private.public()
        self.vault = MemoryVault()
        memory = ReleaseMemory(self.vault, bytes(32), SystemRng())
        hop = HopVerifier(HOP_KEY, self.clock)
        self.service = EnclaveService(EPOCH, self.policy, private, self.clock, hop, memory)
        self.signer = HopSigner(HOP_KEY, _Following(self.clock), SystemRng())

    def ask_all(self, header: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        here, there = socket.socketpair()
        with here, there:
            Channel(here).send(header, body)
            reply = self.service.answer(Channel(there).receive())
        return reply.header, bytes(reply.body)


@pytest.fixture
def local() -> LocalLab:
    lab = LocalLab()
    assert lab.open_run()["ok"]
    return lab


def lasting(lab: LocalLab, name: str, seconds: int) -> Update:
    return lab.update(lab.member(name), iat=START, exp=START + seconds)


def test_update_accepted_in_time_keeps_its_receipt_for_late_retries(local: LocalLab) -> None:
    update = lasting(local, "a", 600)
    first = local.submit(update)
    local.clock.time += 500
    assert local.submit(update) == first


def test_update_forgotten_as_expired_stays_refused_when_the_clock_turns_back(
    local: LocalLab,
) -> None:
    update = lasting(local, "a", 600)
    assert local.submit(update)["ok"]
    local.clock.time += 1200
    other = local.update(local.member("b"), iat=START + 1200, exp=START + 1800)
    assert local.submit(other)["ok"]
    assert local.status()["version"] == 1
    local.clock.time = START + 650
    assert local.submit(update)["code"] == Code.ENV_EXPIRED
    assert local.submit(lasting(local, "c", 1250))["ok"]


@pytest.mark.parametrize("ahead", [601, 365 * 86_400])
def test_clock_that_was_far_ahead_ends_the_enclave(local: LocalLab, ahead: int) -> None:
    local.clock.time = START + ahead
    assert local.submit(local.update(local.member("a"), iat=START + ahead, exp=START + ahead + 9))
    local.clock.time = START
    with pytest.raises(EnclaveSpent):
        local.submit(lasting(local, "b", 600))


def test_unexpected_failure_tells_nothing_and_serves_on(
    local: LocalLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode() -> float:
        raise RuntimeError("the secret is 42")

    with monkeypatch.context() as broken:
        broken.setattr(local.clock, "now", explode)
        reply = local.submit(lasting(local, "a", 600))
    assert reply["code"] == Code.INTERNAL
    assert "42" not in json.dumps(reply)
    assert local.status()["pending"] == 0
    assert local.submit(lasting(local, "a", 600))["ok"]
