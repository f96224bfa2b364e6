"""The enclave's service on a clock the test moves; the same code as in the process."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code
from fl_protocol.ports import SystemRng
from tee_sim import image
from tee_sim.channel import Channel, ChannelClosed
from tee_sim.enclave.memory import ReleaseMemory
from tee_sim.enclave.service import EnclaveService, Keys
from tee_sim.ending import EnclaveSpent, Ending
from tee_sim.hop import HopSigner, HopVerifier
from tests.support.clock import SetClock
from tests.support.enclave import (
    EPOCH,
    HOP_KEY,
    Lab,
    Member,
    MemoryVault,
    SealedImage,
    Update,
    fresh_run,
    policy_for,
)
from tests.support.processes import wait_until

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
        self.vault = MemoryVault()
        self.signer = HopSigner(HOP_KEY, _Following(self.clock), SystemRng())
        self.start()

    def start(self) -> None:
        private = Keys()
        self.keys = private.public()
        memory = ReleaseMemory(self.vault, bytes(32), SystemRng())
        hop = HopVerifier(HOP_KEY, self.clock)
        self.service = EnclaveService(self.epoch, self.policy, private, self.clock, hop, memory)

    def start_successor(self) -> None:
        self.epoch += 1
        self.start()

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
    local.clock.time += 700
    other = local.update(local.member("b"), iat=START + 700, exp=START + 1300)
    assert local.submit(other)["ok"]
    assert local.status()["version"] == 1
    local.clock.time = START + 40
    assert local.submit(update)["code"] == Code.ENV_EXPIRED
    # What is sealed now is not refused with it.
    assert local.submit(local.update(local.member("c"), iat=START + 40, exp=START + 640))["ok"]


def test_an_enclave_whose_clock_was_ahead_ends_and_its_successor_goes_on(local: LocalLab) -> None:
    members = [local.member(name) for name in "abc"]

    def send(member: Member, **base: Any) -> dict[str, Any]:
        now = int(local.clock.time)
        return local.submit(local.update(member, iat=now, exp=now + 600, **base))

    assert all(send(member)["ok"] for member in members[:2])
    record, params = local.release(1)
    newer = {"base_version": 1, "base_model_digest": record.model_digest}
    local.clock.time += 365 * 86_400
    buffered = local.receipt(send(members[0], **newer))
    local.clock.time -= 365 * 86_400
    with pytest.raises(EnclaveSpent) as spent:
        send(members[1], **newer)
    assert spent.value.ending is Ending.CLOCK_SET_BACK

    local.start_successor()
    assert local.open_run(version=1, params=params.tobytes())["ok"]
    assert send(members[0])["code"] == "DUPLICATE_UPDATE"
    # What was buffered comes again from its node, under its id.
    assert send(members[0], update_id=buffered.update_id, **newer)["ok"]
    assert send(members[1], **newer)["ok"]
    assert local.release(2)[0].num_clients == 2


@pytest.mark.parametrize("operation", ["GET_RELEASE", "GET_RECORDS", "UPDATE_STATUS", "OPEN_RUN"])
def test_whatever_is_asked_shows_that_the_clock_was_ahead(local: LocalLab, operation: str) -> None:
    requests: dict[str, Callable[[], object]] = {
        "GET_RELEASE": lambda: local.release(1),
        "GET_RECORDS": lambda: local.ask({"op": "GET_RECORDS", "from_seq": 0}),
        "UPDATE_STATUS": lambda: local.ask(
            {
                "op": "UPDATE_STATUS",
                "run_id": local.run_id,
                "client_id": "a",
                "update_id": "u",
                "nonce": "0" * 32,
            }
        ),
        "OPEN_RUN": local.open_run,
    }
    local.clock.time += 2000
    local.ask({"op": "GET_RECORDS", "from_seq": 0})
    local.clock.time -= 600
    local.ask({"op": "GET_RECORDS", "from_seq": 0})
    local.clock.time -= 100
    with pytest.raises(EnclaveSpent):
        requests[operation]()


# An enclave whose clock is a day ahead the first time that its service looks.
AHEAD_ONCE = b"""
import itertools
import tee_sim.enclave.main as enclave
from fl_protocol.ports import SystemClock

made = itertools.count()

class AheadOnce(SystemClock):
    def __init__(self):
        self.offset = 86_400.0 if next(made) == 1 else 0.0

    def now(self):
        offset, self.offset = self.offset, 0.0
        return super().now() + offset

enclave.SystemClock = AheadOnce
main = enclave.main
"""


def test_its_launcher_can_say_why_an_enclave_whose_clock_was_ahead_has_ended() -> None:
    sealed = SealedImage(image.build("ahead", {"ahead.py": AHEAD_ONCE}))
    lab = Lab(sealed)
    try:
        assert lab.open_run()["ok"]
        with pytest.raises(ChannelClosed):
            lab.ask({"op": "GET_RECORDS", "from_seq": 0})
        wait_until(lambda: not lab.process.alive())
        condition = lab.process.condition()
        assert condition == "ended because this machine's clock was ahead and was set back"
    finally:
        lab.close()
        os.close(sealed.handle)


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
