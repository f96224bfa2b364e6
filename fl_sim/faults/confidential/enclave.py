"""The platform of a world: one enclave after another, with production's code inside."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, GatewayUnavailable, RunRejected
from fl_protocol.header import Header
from fl_protocol.ports import Chunk
from fl_sim.faults.chance import Chance, ChanceRng, Crash, Violation
from fl_sim.faults.confidential.actors import ProcessClock
from fl_sim.faults.confidential.truth import Truth
from fl_sim.faults.disk import SimulatedDisk
from strategies.update import Accepted, ClientUpdate
from tee_sim.certificates import create_root
from tee_sim.channel import HEADER_LENGTH, Body, ChannelClosed, Request, decode_header, encode_head
from tee_sim.client import EnclaveClient
from tee_sim.control import Attachment, LauncherClient
from tee_sim.counter import FileCounter
from tee_sim.enclave.checks import Sealed
from tee_sim.enclave.memory import ReleaseMemory
from tee_sim.enclave.replies import Reply
from tee_sim.enclave.run import Merged, Run
from tee_sim.enclave.service import EnclaveService, Keys
from tee_sim.ending import EnclaveSpent
from tee_sim.evidence import check_nonce
from tee_sim.hop import HopSigner, HopVerifier
from tee_sim.platform import RunningEnclave, SimulatedPlatform
from tee_sim.policy import EnclavePolicy
from tee_sim.sealed_state import SealedState

# Of an image that is not built here; what it holds is this process's own code.
MEASUREMENT = "5e" * 48
HOP_KEY = b"h" * 32
_FOLDER = Path("/platform")
_REPLAYS = {Code.HOP_REPLAYED.value, Code.HOP_STALE.value}


class _WatchedService(EnclaveService):
    """Shows the onlooker what happens inside."""

    def __init__(self, truth: Truth, epoch: int, policy: EnclavePolicy, *rest: Any) -> None:
        super().__init__(epoch, policy, *rest)
        self._truth = truth

    def _begin(self, run: Run) -> None:
        super()._begin(run)
        self._truth.opened(self._epoch, run.engine.version, run.engine.params.copy())

    def _offer(self, run: Run, update: ClientUpdate, now: float) -> Accepted:
        # The row is taken over by the engine.
        copy = ClientUpdate(
            update.client,
            update.base_version,
            np.array(update.delta),
            update.num_examples,
            update.update_id,
        )
        accepted = super()._offer(run, update, now)
        self._truth.took_in(self._epoch, copy, now)
        return accepted

    def _release(self, run: Run, merged: Merged, now: float) -> None:
        super()._release(run, merged, now)
        self._truth.merged(self._epoch, merged.merge, now)

    def answer(self, request: Request) -> Reply:
        """Answer one request, and tell what of it concerns others than its sender."""
        reply = super().answer(request)
        header = request.header
        if reply.header.get("code") == Code.INTERNAL:
            self._truth.failed("the enclave")
        if header["op"] == "SUBMIT" and not reply.header["ok"] and "payload" in reply.header:
            self._truth.refused.add(Header.decode(Sealed.of(header).protected).update_id)
        if header["op"] == "GET_RELEASE" and reply.header["ok"]:
            digest = _sha256(reply.body)
            self._truth.handed_out(header["version"], digest)
        return reply


class _Vault:
    """The platform's sealed state, without the socket to it."""

    def __init__(self, state: SealedState) -> None:
        self._state = state

    def load(self, name: str) -> tuple[int, bytes]:
        with _typed():
            return self._state.load(name)

    def store(self, name: str, sealed: bytes | bytearray) -> None:
        with _typed():
            self._state.store(name, bytes(sealed))


class Platform:
    """Keeps at most one enclave running, as the launcher does.

    Parameters
    ----------
    chance : Chance
        Decides what goes wrong.
    truth : Truth
        Is shown what happens inside.
    policy : EnclavePolicy
        What every enclave enforces.
    clock : ProcessClock
        Of the platform.

    Attributes
    ----------
    root_pem : str
        Certificate that evidence is believed by.
    receipt_keys : dict of int to bytes
        Public receipt key of every epoch.
    """

    def __init__(
        self, chance: Chance, truth: Truth, policy: EnclavePolicy, clock: ProcessClock
    ) -> None:
        self._chance, self._truth, self._policy, self._clock = chance, truth, policy, clock
        self._disk = SimulatedDisk(chance, truth.seen)
        self._state = SealedState(_FOLDER / "sealed", self._disk, ChanceRng(chance))
        root = create_root(_FOLDER, clock, self._disk)
        self.root_pem = self._disk.read(root.root).decode()
        key = Ed25519PrivateKey.from_private_bytes(self._disk.read(root.platform_key))
        chain = (self._disk.read(root.platform_chain).decode(),)
        self._attester = SimulatedPlatform(key, chain, 1, clock)
        self._facts: RunningEnclave | None = None
        self.service: EnclaveService | None = None
        self.receipt_keys: dict[int, bytes] = {}

    def attach(self) -> tuple[EnclaveService, int]:
        """Return the running enclave and its epoch, after starting one if there is none."""
        with self._survived():
            if self.service is None:
                self._start()
        assert self.service is not None and self._facts is not None
        return self.service, self._facts.epoch

    def evidence(self, nonce: bytes) -> bytes:
        """Return evidence about the running enclave."""
        check_nonce(nonce)
        self.attach()
        assert self._facts is not None
        return self._attester.attest(self._facts, nonce)

    def answer(self, service: EnclaveService, request: Request) -> Reply:
        """Have an enclave answer, unless it dies before or after."""
        if service is not self.service:
            raise ChannelClosed
        dies_after = self._chance.rng.random() < 0.5
        dies = self._chance.strikes("enclave")
        if dies and not dies_after:
            self._kill()
        with self._survived():
            reply = service.answer(request)
        if dies:
            self._kill()
        return reply

    def _start(self) -> None:
        epoch = FileCounter(_FOLDER / "epoch", self._disk).next()
        keys = Keys()
        self._facts = RunningEnclave(epoch, MEASUREMENT, keys.public(), self._policy, {}, False)
        self.receipt_keys[epoch] = keys.public().receipt
        memory = ReleaseMemory(
            _Vault(self._state), self._state.key_for(MEASUREMENT), ChanceRng(self._chance)
        )
        hop = HopVerifier(HOP_KEY, self._clock)
        self.service = _WatchedService(
            self._truth, epoch, self._policy, keys, self._clock, hop, memory
        )

    def _kill(self) -> None:
        self._bury()
        raise ChannelClosed

    def _bury(self) -> None:
        if self._facts is not None:
            self._truth.died(self._facts.epoch)
        self.service, self._facts = None, None

    @contextlib.contextmanager
    def _survived(self) -> Iterator[None]:
        """Restart the platform if it dies, with all that runs on it."""
        try:
            yield
        except Crash:
            if self._chance.rng.random() < 0.5:
                self._disk.lose_power()
            self._disk.start()
            self._bury()
            raise ChannelClosed from None
        except EnclaveSpent:
            self._kill()
        except OSError as error:
            # It could not even be started.
            raise ChannelClosed from error


class SimulatedLauncher(LauncherClient):
    """The gateway's way to the platform, without a socket."""

    def __init__(self, platform: Platform, signer: HopSigner, chance: Chance) -> None:
        super().__init__(Path("/launcher"), signer)
        self._platform, self._chance = platform, chance

    async def attach(self, *, replace: int = 0) -> Attachment:
        """Get a connection to the enclave."""
        with _reached():
            service, epoch = self._platform.attach()
        client = _InProcess(self._platform, service, self._signer, self._chance)
        return Attachment(client, epoch, 0)

    async def evidence(self, nonce: bytes) -> bytes:
        """Have the platform answer a challenge."""
        with _reached():
            return self._platform.evidence(nonce)


class _InProcess(EnclaveClient):
    """Sends whole frames to an enclave in this process."""

    def __init__(
        self, platform: Platform, service: EnclaveService, signer: HopSigner, chance: Chance
    ) -> None:
        self._signer, self._turn, self._out_of_step = signer, asyncio.Lock(), False
        self._platform, self._service, self._chance = platform, service, chance

    @property
    def broken(self) -> bool:
        """Whether the enclave has ended, or an exchange with it did not."""
        return self._out_of_step or self._platform.service is not self._service

    def close(self) -> None:
        """Let go of it."""
        self._out_of_step = True

    async def _exchange(self, head: bytes, body: Sequence[Chunk]) -> tuple[dict[str, Any], bytes]:
        content = b"".join(bytes(chunk) for chunk in body)
        reply = self._platform.answer(self._service, _request(head, content))
        if self._chance.strikes("replay_hop"):
            again = self._platform.answer(self._service, _request(head, content))
            if again.header.get("code") not in _REPLAYS:
                raise Violation("I12: the enclave answered the same request twice")
        encoded = encode_head(reply.header, len(reply.body))
        length = HEADER_LENGTH.unpack(encoded[: HEADER_LENGTH.size])[0]
        return decode_header(encoded[HEADER_LENGTH.size :][:length]), bytes(reply.body)


class _Bytes:
    """Bytes that are received as from a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def recv_into(self, target: memoryview, flags: int = 0) -> int:
        count = min(len(target), len(self._data))
        target[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


def _request(head: bytes, content: bytes) -> Request:
    length = HEADER_LENGTH.unpack(head[: HEADER_LENGTH.size])[0]
    header = decode_header(head[HEADER_LENGTH.size :][:length])
    stream: Any = _Bytes(content)
    return Request(header, Body(stream, len(content)))


def _sha256(body: memoryview | bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunRejected(Code.RUN_MEMORY) from error


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except ChannelClosed as error:
        raise GatewayUnavailable(Code.ENCLAVE_UNAVAILABLE) from error
