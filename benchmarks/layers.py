"""What each layer of the trust path costs for one update, each measured alone in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.timing import medians
from fl_protocol.encoding import b64url
from fl_protocol.envelope import (
    SEGMENT_BYTES,
    SUITE,
    TAG_BYTES,
    Header,
    Opener,
    SealedUpdate,
    key_id,
    seal,
    verify_signature,
)
from fl_protocol.identity import Identity
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proof import SECONDS_USABLE, ProofVerifier, make_proof
from fl_server.gateway.authenticator import Authenticator
from fl_server.gateway.database import Database
from fl_server.gateway.registry import Registry
from fl_server.gateway.shared_memory import SharedReplayMemory
from fl_server.gateway.token_keys import TokenKeys
from tee_sim.hop import HopSigner, HopVerifier

_METHOD = "/asynclave.v1.Gateway/SubmitUpdate"
_RNG, _CLOCK = SystemRng(), SystemClock()
_HOP_KEY = bytes(32)
_HOP = HopSigner(_HOP_KEY, _CLOCK, _RNG)


@dataclass(frozen=True)
class Sealing:
    """A sealed update and the keys on both sides."""

    identity: Ed25519PrivateKey
    enclave: X25519PrivateKey
    delta: np.ndarray
    sealed: SealedUpdate

    @classmethod
    def of(cls, num_params: int) -> Sealing:
        """Seal a random delta of float32 values."""
        identity, enclave = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        delta = np.random.default_rng(1).normal(size=num_params).astype(np.float32)
        return cls(identity, enclave, delta, _seal(delta, identity, enclave))

    def seal(self) -> SealedUpdate:
        """Seal once more."""
        return _seal(self.delta, self.identity, self.enclave)

    def verify(self) -> None:
        """Check the client's signature."""
        sealed = self.sealed
        public = self.identity.public_key().public_bytes_raw()
        verify_signature(sealed.protected, sealed.wrap, sealed.tags, sealed.signature, public)

    def sign_hop(self) -> dict[str, Any]:
        """Sign the request that hands the update to the enclave."""
        sealed = self.sealed
        parts = {"protected": sealed.protected, "wrap": sealed.wrap, "tags": sealed.tags}
        request = {"op": "SUBMIT", **{name: b64url(part) for name, part in parts.items()}}
        return _HOP.sign(request, hashlib.sha256(sealed.tags).digest())

    def open_into(self, row: np.ndarray) -> None:
        """Open every segment into a row."""
        sealed, target = self.sealed, memoryview(row).cast("B")
        opener = Opener(self.enclave, sealed.protected, sealed.wrap, sealed.tags)
        for index, segment in enumerate(sealed.segments):
            opener.open_segment(index, segment, target[index * SEGMENT_BYTES :])
        opener.finish()


def measure(num_params: int, rounds: int) -> dict[str, float]:
    """Return the milliseconds of each layer, and of the AES-GCM and add floor beside them."""
    sealing, row = Sealing.of(num_params), np.empty(num_params, np.float32)
    total = np.zeros(num_params, np.float32)

    def screen_and_add() -> None:
        float(row @ row)
        np.add(total, row, out=total)

    folder = TemporaryDirectory()
    contenders: dict[str, Callable[[], object]] = {
        "client_seal_and_sign": sealing.seal,
        "gateway_token_and_proof": _admission(rounds, Path(folder.name)),
        "gateway_sign_hop": sealing.sign_hop,
        "enclave_verify_hop": _hop_verification(sealing, rounds),
        "enclave_verify_signature": sealing.verify,
        "enclave_open": lambda: sealing.open_into(row),
        "enclave_screen_and_add": screen_and_add,
        "floor_aes_and_add": _floor(num_params, row, total),
    }
    with folder:
        return {name: 1e3 * value for name, value in medians(contenders, rounds).items()}


def _seal(
    delta: np.ndarray, identity: Ed25519PrivateKey, enclave: X25519PrivateKey
) -> SealedUpdate:
    key, now = enclave.public_key().public_bytes_raw(), int(_CLOCK.now())
    header = Header(
        v=1,
        suite=SUITE,
        federation="bench",
        run_id="bench",
        epoch=1,
        key_id=key_id(key),
        policy_digest="0" * 64,
        client_id="client",
        base_version=0,
        base_model_digest="0" * 64,
        num_examples=1,
        manifest_digest="0" * 64,
        task_digest="0" * 64,
        ct_len=0,
        seg_size=SEGMENT_BYTES,
        n_segs=0,
        nonce=_RNG.bytes(16).hex(),
        update_id="update",
        iat=now,
        exp=now + 600,
        trace_id=_RNG.bytes(16).hex(),
    )
    return seal(header, memoryview(delta), key, identity, _RNG)


def _admission(rounds: int, folder: Path) -> Callable[[], None]:
    """Admit a call as a gateway does, with an SQLite registry."""
    identity = Identity.generate(_RNG)
    (folder / "token.key").write_bytes(_RNG.bytes(32))
    keys = TokenKeys(folder / "token.key", "bench", _CLOCK)
    token = keys.signer(lambda kid: False).issue(
        issuer=keys.issuer,
        audience=keys.audience,
        client_id="client",
        scope="update:submit",
        jkt=identity.jkt,
        clock=_CLOCK,
        rng=_RNG,
    )
    database = Database(folder / "registry.sqlite")
    proofs = ProofVerifier(_CLOCK, seen=SharedReplayMemory(database, "proof", SECONDS_USABLE))
    authenticator = Authenticator(keys, proofs, proofs, Registry(database))
    # A proof is good for one call, so they are made ahead: one a round and one to warm up.
    made = iter(
        [make_proof(identity.proof_key, _METHOD, token, _CLOCK, _RNG) for _ in range(rounds + 1)]
    )

    def admit() -> None:
        metadata = {"authorization": f"DPoP {token}", "dpop": next(made)}
        authenticator.check(_METHOD, authenticator.bearer("update:submit", metadata), metadata)

    return admit


def _hop_verification(sealing: Sealing, rounds: int) -> Callable[[], None]:
    verifier = HopVerifier(_HOP_KEY, _CLOCK)
    made = iter([sealing.sign_hop() for _ in range(rounds + 1)])
    return lambda: verifier.verify(next(made))


def _floor(num_params: int, row: np.ndarray, total: np.ndarray) -> Callable[[], None]:
    """AES-256-GCM of the same segments into the same row, and one add: nothing can be cheaper."""
    cipher, nonce = AESGCM(_RNG.bytes(32)), bytes(12)
    plain = memoryview(np.ones(num_params, np.float32)).cast("B")
    starts = range(0, plain.nbytes, SEGMENT_BYTES)
    segments = [cipher.encrypt(nonce, plain[s : s + SEGMENT_BYTES], None) for s in starts]
    target = memoryview(row).cast("B")

    def floor() -> None:
        for start, segment in zip(starts, segments, strict=True):
            end = start + len(segment) - TAG_BYTES
            cipher.decrypt_into(nonce, segment, None, target[start:end])
        np.add(total, row, out=total)

    return floor
