"""A run with throw-away keys before lockdown, so that every lazy import and cache is warm.

It takes the ways a real run takes: a refused update, a buffer held back, a release, unknown
requests.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.encoding import b64url
from fl_protocol.envelope import SUITE, Header, key_id, seal
from fl_protocol.membership import Membership, sign_membership
from fl_protocol.ports import SystemClock, SystemRng
from strategies.layout import Layout
from strategies.privacy.settings import Privacy
from strategies.recipe import Recipe
from strategies.recipes.async_wa import AsyncWA
from strategies.recipes.fedbuff import FedBuff
from tee_sim.channel import Channel
from tee_sim.enclave.memory import KEY_BYTES, ReleaseMemory
from tee_sim.enclave.service import EnclaveService, Keys
from tee_sim.hop import HopSigner, HopVerifier
from tee_sim.policy import EnclavePolicy

_FEDERATION, _RUN = "rehearsal", "rehearsal"
_SIZE = 4096


class RehearsalFailed(Exception):
    """The enclave's code does not work on this machine."""


def rehearse() -> None:
    """Exercise every operation once; raises RehearsalFailed."""
    cases: tuple[tuple[Recipe, Privacy | None], ...] = (
        (FedBuff(buffer_size=2), None),
        (AsyncWA(buffer_size=2, disjoint=True), None),
        (FedBuff(buffer_size=2), Privacy(1.0, 1.0, 1e-5, 10.0)),
    )
    for recipe, privacy in cases:
        _Rehearsal({"name": recipe.name, "options": recipe.options()}, privacy).run()


class _Drawer:
    """A vault that ends with the rehearsal."""

    def __init__(self) -> None:
        self._sealed: list[bytes] = []

    def load(self, name: str) -> tuple[int, bytes]:
        return len(self._sealed), self._sealed[-1] if self._sealed else b""

    def store(self, name: str, sealed: bytes | bytearray) -> None:
        self._sealed.append(bytes(sealed))


class _Rehearsal:
    def __init__(self, recipe: Mapping[str, Any], privacy: Privacy | None) -> None:
        self._issuer = Ed25519PrivateKey.generate()
        self._policy = EnclavePolicy(
            federation=_FEDERATION,
            recipe=recipe,
            k=2,
            max_leverage=0.5,
            dp=privacy,
            issuer_key=b64url(self._issuer.public_key().public_bytes_raw()),
        )
        self._keys = Keys()
        self._clock, self._rng = SystemClock(), SystemRng()
        key = self._rng.bytes(32)
        self._signer = HopSigner(key, self._clock, self._rng)
        hop = HopVerifier(key, self._clock)
        memory = ReleaseMemory(_Drawer(), bytes(KEY_BYTES), self._rng)
        self._service = EnclaveService(0, self._policy, self._keys, self._clock, hop, memory)
        self._layout = Layout.of({"weight": np.zeros(_SIZE, np.float32)})

    def run(self) -> None:
        digest = hashlib.sha256(bytes(4 * _SIZE)).hexdigest()
        self._expect(self._open(), True)
        self._expect(self._submit("a", digest, 1.0), True)
        self._expect(self._submit("b", digest, float("nan")), False)
        self._expect(self._submit("b", digest, float("inf")), False)
        self._expect(self._submit("b", digest, -2.0), True)
        # One of two could give the other away: released when a third joins.
        self._expect(self._submit("c", digest, 0.5), True)
        self._expect(self._ask({"op": "GET_RELEASE", "run_id": _RUN, "version": 1}), True)
        self._expect(self._ask({"op": "GET_RELEASE", "run_id": _RUN, "version": 9}), False)
        self._expect(self._ask({"op": "GET_RECORDS", "from_seq": 0}), True)
        # Recalls what the release above made it remember.
        self._expect(self._open(), False)
        asked = {"run_id": _RUN, "client_id": "a", "update_id": "u", "nonce": "0" * 32}
        self._expect(self._ask({"op": "UPDATE_STATUS", **asked}), True)
        self._expect(self._ask({"op": "STATUS"}), True)
        self._expect(self._ask({"op": "SUBMIT"}), False)

    def _open(self) -> dict[str, Any]:
        return self._ask(
            {
                "op": "OPEN_RUN",
                "run_id": _RUN,
                "version": 0,
                "layout_json": self._layout.to_json(),
                "recipe_json": json.dumps(dict(self._policy.recipe)),
            },
            bytes(4 * _SIZE),
            bytes(4 * _SIZE),
        )

    def _submit(self, client: str, digest: str, value: float) -> dict[str, Any]:
        identity = Ed25519PrivateKey.generate()
        public = self._keys.public().hpke
        now = int(self._clock.now())
        header = Header(
            v=1,
            suite=SUITE,
            federation=_FEDERATION,
            run_id=_RUN,
            epoch=0,
            key_id=key_id(public),
            policy_digest=self._policy.digest,
            client_id=client,
            base_version=0,
            base_model_digest=digest,
            num_examples=1,
            manifest_digest=self._layout.digest,
            task_digest="0" * 64,
            ct_len=0,
            seg_size=0,
            n_segs=0,
            nonce=self._rng.bytes(16).hex(),
            update_id=self._rng.bytes(16).hex(),
            iat=now,
            exp=now + 60,
            trace_id="0" * 32,
        )
        delta = np.full(_SIZE, value, np.float32).data
        sealed = seal(header, delta, public, identity, self._rng)
        member = Membership.of(
            _FEDERATION, client, identity.public_key().public_bytes_raw(), "client"
        )
        parts = {
            "protected": sealed.protected,
            "wrap": sealed.wrap,
            "tags": sealed.tags,
            "signature": sealed.signature,
            "membership": sign_membership(member, self._issuer),
        }
        request = {"op": "SUBMIT", **{name: b64url(part) for name, part in parts.items()}}
        return self._ask(request, b"".join(sealed.segments), sealed.tags)

    def _ask(
        self, request: dict[str, Any], body: bytes = b"", stands_for_it: bytes = b""
    ) -> dict[str, Any]:
        header = self._signer.sign(request, hashlib.sha256(stands_for_it).digest())
        here, there = socket.socketpair()
        with here, there:
            Channel(here).send(header, body)
            reply = self._service.answer(Channel(there).receive())
            Channel(there).send(reply.header)
            return Channel(here).receive().header

    @staticmethod
    def _expect(reply: dict[str, Any], ok: bool) -> None:
        if reply["ok"] is not ok:
            raise RehearsalFailed(str(reply.get("code")))
