"""A real enclave process and everything needed to send it good and bad requests."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.envelope import SUITE, Header, SealedUpdate, key_id, seal
from fl_protocol.membership import Membership, sign_membership
from fl_protocol.ports import LocalDisk, SystemClock, SystemRng
from fl_protocol.receipts import Receipt, Release, verify_receipt, verify_release
from fl_protocol.signatures import Signed
from strategies import FedBuff, Layout, Recipe
from strategies.update import digest_of
from tee_sim import image
from tee_sim.channel import Channel
from tee_sim.hop import HopSigner
from tee_sim.launch import BootOptions, EnclaveProcess
from tee_sim.launcher_config import DEFAULT_ENCLAVE_USER
from tee_sim.policy import EnclavePolicy
from tee_sim.sealed_state import SealedState

FEDERATION, EPOCH, K = "hospitals", 7, 2
LAYOUT = Layout.of({"weight": np.zeros((3, 4), np.float32), "bias": np.zeros(4, np.float32)})
INITIAL = np.linspace(-1, 1, LAYOUT.num_params, dtype=np.float32)
# Plain averaging, so that a test can say what a release must be.
RECIPE = FedBuff(buffer_size=K, staleness_exponent=0.0, server_lr=1.0)
ENCLAVE_USER = DEFAULT_ENCLAVE_USER if os.geteuid() == 0 else None
HOP_KEY = b"h" * 32
OPTIONS = BootOptions(ENCLAVE_USER, HOP_KEY)


_runs = count(1)


def fresh_run() -> str:
    """Return a name under which nothing was released yet."""
    return f"run-{next(_runs)}"


def described(recipe: Recipe) -> dict[str, Any]:
    return {"name": recipe.name, "options": recipe.options()}


def policy_for(issuer: Ed25519PrivateKey, **changes: Any) -> EnclavePolicy:
    members: dict[str, Any] = {
        "federation": FEDERATION,
        "recipe": described(RECIPE),
        "k": K,
        "issuer_key": b64url(issuer.public_key().public_bytes_raw()),
        "max_staleness": 3,
        "max_norm": 100.0,
        "max_examples": 1000,
    }
    return EnclavePolicy(**(members | changes))


def state_in(folder: Path) -> SealedState:
    return SealedState(folder, LocalDisk(), SystemRng())


class SealedImage:
    """An image in its memfd."""

    def __init__(self, built: image.Image | None = None) -> None:
        self._folder = TemporaryDirectory(prefix="sealed-state-")
        self.state = state_in(Path(self._folder.name))
        self.handle = (built or image.build()).seal()
        self.measurement = image.measurement_of(self.handle)
        self.dependencies = image.dependency_paths()

    def start(
        self, policy: EnclavePolicy, epoch: int = EPOCH, options: BootOptions = OPTIONS
    ) -> EnclaveProcess:
        return EnclaveProcess.start(
            self.handle,
            self.measurement,
            self.dependencies,
            epoch,
            policy,
            options,
            self.state,
        )


class MemoryVault:
    """A platform's place for sealed bytes, in this process."""

    def __init__(self) -> None:
        self.sealed: dict[str, list[bytes]] = {}

    def load(self, name: str) -> tuple[int, bytes]:
        stored = self.sealed.get(name, [b""])
        return len(stored) - 1, stored[-1]

    def store(self, name: str, sealed: bytes | bytearray) -> None:
        self.sealed.setdefault(name, [b""]).append(bytes(sealed))


@dataclass(frozen=True)
class Member:
    """A client with its identity and the issuer's statement about it."""

    name: str
    identity: Ed25519PrivateKey
    membership: bytes


@dataclass(frozen=True)
class Update:
    """What goes to the enclave, open to tampering."""

    header: Header
    parts: dict[str, bytes]
    body: bytes

    def with_part(self, name: str, content: bytes) -> Update:
        return replace(self, parts=self.parts | {name: content})


@dataclass
class Lab:
    """One enclave process, its issuer, and the sync end of its channel."""

    image: SealedImage
    issuer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    changes: dict[str, Any] = field(default_factory=dict)
    epoch: int = EPOCH
    run_id: str = field(default_factory=fresh_run)
    options: BootOptions = OPTIONS

    def __post_init__(self) -> None:
        self.policy = policy_for(self.issuer, **self.changes)
        self.process = self.image.start(self.policy, self.epoch, self.options)
        self.keys = self.process.facts.keys
        self._stream = self.process.hand_over()
        self.channel = Channel(self._stream)
        self.signer = HopSigner(HOP_KEY, SystemClock(), SystemRng())

    def close(self) -> None:
        self._stream.close()
        self.process.end()

    def ask(
        self, header: dict[str, Any], body: bytes = b"", covered: bytes | None = None
    ) -> dict[str, Any]:
        """Sign as the gateway does; `covered` stands for the body where it is not the body."""
        content = body if covered is None else covered
        digest = hashlib.sha256(content).digest()
        return self.ask_all(self.signer.sign(header, digest), body)[0]

    def ask_all(self, header: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send a signed request as it is."""
        self.channel.send(header, body)
        reply = self.channel.receive()
        content = bytearray(reply.body.remaining)
        reply.body.read_into(memoryview(content))
        return reply.header, bytes(content)

    def open_run(
        self,
        recipe: dict[str, Any] | None = None,
        *,
        run_id: str | None = None,
        layout_json: str = LAYOUT.to_json(),
        params: bytes = INITIAL.tobytes(),
        version: int = 0,
    ) -> dict[str, Any]:
        header = {
            "op": "OPEN_RUN",
            "run_id": run_id or self.run_id,
            "version": version,
            "layout_json": layout_json,
            "recipe_json": json.dumps(recipe or described(RECIPE)),
        }
        return self.ask(header, params)

    def status(self) -> dict[str, Any]:
        return self.ask({"op": "STATUS"})

    def member(self, name: str, federation: str = FEDERATION) -> Member:
        identity = Ed25519PrivateKey.generate()
        public = identity.public_key().public_bytes_raw()
        statement = Membership.of(federation, name, public, "client")
        return Member(name, identity, sign_membership(statement, self.issuer))

    def header(self, client: str, **changes: Any) -> Header:
        now = int(time.time())
        rng = SystemRng()
        members: dict[str, Any] = {
            "v": 1,
            "suite": SUITE,
            "federation": FEDERATION,
            "run_id": self.run_id,
            "epoch": self.epoch,
            "key_id": key_id(self.keys.hpke),
            "policy_digest": self.policy.digest,
            "client_id": client,
            "base_version": 0,
            "base_model_digest": digest_of(INITIAL),
            "num_examples": 10,
            "manifest_digest": LAYOUT.digest,
            "task_digest": "0" * 64,
            "ct_len": 0,
            "seg_size": 0,
            "n_segs": 0,
            "nonce": rng.bytes(16).hex(),
            "update_id": rng.bytes(16).hex(),
            "iat": now,
            "exp": now + 600,
            "trace_id": "0" * 32,
        }
        return Header(**(members | changes))

    def update(
        self,
        member: Member,
        delta: Any = 1.0,
        *,
        enclave_key: bytes | None = None,
        **changes: Any,
    ) -> Update:
        vector = delta
        if not isinstance(delta, np.ndarray):
            vector = np.full(LAYOUT.num_params, delta, np.float32)
        header = self.header(member.name, **changes)
        sealed = seal(
            header, vector.data, enclave_key or self.keys.hpke, member.identity, SystemRng()
        )
        return as_update(sealed, member)

    def submit(self, update: Update) -> dict[str, Any]:
        parts = {name: b64url(part) for name, part in update.parts.items()}
        return self.ask({"op": "SUBMIT", **parts}, update.body, update.parts["tags"])

    def send(self, member: Member, delta: Any = 1.0, **changes: Any) -> dict[str, Any]:
        return self.submit(self.update(member, delta, **changes))

    def receipt(self, reply: dict[str, Any]) -> Receipt:
        assert reply["ok"], reply
        return verify_receipt(signed_of(reply), self.keys.receipt)

    def release(self, version: int) -> tuple[Release, np.ndarray]:
        header = {"op": "GET_RELEASE", "run_id": self.run_id, "version": version}
        reply, body = self.ask_all(self.signer.sign(header))
        assert reply["ok"], reply
        record = verify_release(signed_of(reply), self.keys.receipt)
        return record, np.frombuffer(body, np.float32)

    def fetch_newest(self) -> None:
        """Have the newest release handed out; else the enclave ends when another run is opened."""
        status = self.status()
        if status["version"]:
            members = {"run_id": status["run_id"], "version": status["version"]}
            self.ask_all(self.signer.sign({"op": "GET_RELEASE", **members}))

    def merge_with(self, *deltas: float, **changes: Any) -> None:
        for delta in deltas:
            name = f"filler-{SystemRng().bytes(4).hex()}"
            self.receipt(self.send(self.member(name), delta, **changes))


def as_update(sealed: SealedUpdate, member: Member) -> Update:
    parts = {
        "protected": sealed.protected,
        "wrap": sealed.wrap,
        "tags": sealed.tags,
        "signature": sealed.signature,
        "membership": member.membership,
    }
    return Update(Header.decode(sealed.protected), parts, b"".join(sealed.segments))


def signed_of(reply: dict[str, Any]) -> Signed:
    return Signed(b64url_decode(reply["payload"]), b64url_decode(reply["signature"]))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)
