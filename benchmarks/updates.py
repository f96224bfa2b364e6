"""Sealed updates for benchmarks, made as nodes make them, and the request that hands one in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fl_protocol.encoding import b64url
from fl_protocol.envelope import (
    SEGMENT_BYTES,
    SUITE,
    TAG_BYTES,
    Header,
    SealedUpdate,
    key_id,
    seal,
)
from fl_protocol.membership import Membership, sign_membership
from fl_protocol.ports import SystemClock, SystemRng
from strategies.layout import Layout
from strategies.recipes.fedbuff import FedBuff
from strategies.update import digest_of
from tee_sim.policy import EnclavePolicy

FEDERATION = RUN = "bench"
BUFFER = 10
_RNG, _CLOCK = SystemRng(), SystemClock()


@dataclass(frozen=True)
class Member:
    """A client with its identity and the issuer's statement about it."""

    name: str
    identity: Ed25519PrivateKey
    membership: bytes


class Federation:
    """A policy that merges a buffer of updates, a member for each, and a model of zeros.

    Parameters
    ----------
    num_params : int
        Size of the model.
    buffer : int
        Updates of a merge.
    """

    def __init__(self, num_params: int, buffer: int = BUFFER) -> None:
        self._issuer = Ed25519PrivateKey.generate()
        recipe = FedBuff(buffer_size=buffer)
        self.policy = EnclavePolicy(
            federation=FEDERATION,
            recipe={"name": recipe.name, "options": recipe.options()},
            k=buffer,
            issuer_key=b64url(self._issuer.public_key().public_bytes_raw()),
        )
        self.zeros = np.zeros(num_params, np.float32)
        self.layout = Layout.of({"weights": self.zeros})
        self.delta = np.random.default_rng(1).normal(size=num_params).astype(np.float32)
        self.members = [self._member(f"client-{number}") for number in range(buffer)]

    def opening(self) -> dict[str, Any]:
        """Return the request that opens the run; its body is the model."""
        return {
            "op": "OPEN_RUN",
            "run_id": RUN,
            "version": 0,
            "layout_json": self.layout.to_json(),
            "recipe_json": json.dumps(dict(self.policy.recipe)),
        }

    def sealed(
        self, member: Member, hpke_key: bytes, version: int, digest: str, epoch: int = 1
    ) -> SealedUpdate:
        """Seal the same delta once more, as one member's update of one model."""
        now = int(_CLOCK.now())
        header = Header(
            v=1,
            suite=SUITE,
            federation=FEDERATION,
            run_id=RUN,
            epoch=epoch,
            key_id=key_id(hpke_key),
            policy_digest=self.policy.digest,
            client_id=member.name,
            base_version=version,
            base_model_digest=digest,
            num_examples=10,
            manifest_digest=self.layout.digest,
            task_digest="0" * 64,
            ct_len=0,
            seg_size=0,
            n_segs=0,
            nonce=_RNG.bytes(16).hex(),
            update_id=_RNG.bytes(16).hex(),
            iat=now,
            exp=now + 600,
            trace_id=_RNG.bytes(16).hex(),
        )
        return seal(header, self.delta.data, hpke_key, member.identity, _RNG)

    def initial_digest(self) -> str:
        """Return the digest of the model the run starts from."""
        return digest_of(self.zeros)

    def _member(self, name: str) -> Member:
        identity = Ed25519PrivateKey.generate()
        public = identity.public_key().public_bytes_raw()
        statement = Membership.of(FEDERATION, name, public, "client")
        return Member(name, identity, sign_membership(statement, self._issuer))


def parts_of(sealed: SealedUpdate, member: Member) -> dict[str, bytes]:
    """Return the parts of an update that go with its body."""
    return {
        "protected": sealed.protected,
        "wrap": sealed.wrap,
        "tags": sealed.tags,
        "signature": sealed.signature,
        "membership": member.membership,
    }


def tags_digest(sealed: SealedUpdate) -> bytes:
    """Return what stands for an update's body on the hop to the enclave."""
    return hashlib.sha256(sealed.tags).digest()


class Floor:
    """AES-256-GCM of the same bytes into a reused row, and one add: nothing can be cheaper.

    Parameters
    ----------
    delta : ndarray, float32
        What is encrypted, in segments of 1 MiB.
    """

    def __init__(self, delta: np.ndarray) -> None:
        self._cipher, self._nonce = AESGCM(_RNG.bytes(32)), bytes(12)
        plain = delta.data.cast("B")
        self._starts = range(0, plain.nbytes, SEGMENT_BYTES)
        self._segments: Sequence[bytes] = [
            self._cipher.encrypt(self._nonce, plain[start : start + SEGMENT_BYTES], None)
            for start in self._starts
        ]
        self._row, self._total = np.empty_like(delta), np.zeros_like(delta)

    def work(self) -> None:
        """Decrypt and add once."""
        target = self._row.data.cast("B")
        for start, segment in zip(self._starts, self._segments, strict=True):
            end = start + len(segment) - TAG_BYTES
            self._cipher.decrypt_into(self._nonce, segment, None, target[start:end])
        np.add(self._total, self._row, out=self._total)
