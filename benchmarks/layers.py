"""What each layer of the trust path costs for one update, each measured alone in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from benchmarks.timing import medians
from benchmarks.updates import Federation, Floor, parts_of, tags_digest
from fl_protocol.encoding import b64url
from fl_protocol.envelope import SEGMENT_BYTES, Header, Opener, SealedUpdate
from fl_protocol.identity import Identity
from fl_protocol.ports import SystemClock, SystemRng
from fl_protocol.proof import SECONDS_USABLE, ProofVerifier, make_proof
from fl_server.gateway.authenticator import Authenticator
from fl_server.gateway.database import Database
from fl_server.gateway.registry import Registry
from fl_server.gateway.shared_memory import SharedReplayMemory
from fl_server.gateway.token_keys import TokenKeys
from tee_sim.enclave.checks import Binding, Sealed, authenticate
from tee_sim.hop import HopSigner, HopVerifier

_CHECKS = (
    "gateway_token_and_proof",
    "gateway_read_header",
    "enclave_verify_hop",
    "enclave_authenticate",
)
_METHOD = "/asynclave.v1.Gateway/SubmitUpdate"
_RNG, _CLOCK = SystemRng(), SystemClock()
_HOP_KEY = bytes(32)
_HOP = HopSigner(_HOP_KEY, _CLOCK, _RNG)


class Sealing:
    """A sealed update and the keys on both sides.

    Parameters
    ----------
    num_params : int
        Size of the update.
    """

    def __init__(self, num_params: int) -> None:
        self._federation = Federation(num_params)
        self.member, self.delta = self._federation.members[0], self._federation.delta
        self._enclave = X25519PrivateKey.generate()
        self._public = self._enclave.public_key().public_bytes_raw()
        self._digest = self._federation.initial_digest()
        self.sealed = self.seal()

    def seal(self) -> SealedUpdate:
        """Seal once more."""
        return self._federation.sealed(self.member, self._public, 0, self._digest)

    def authenticate(self) -> None:
        """Check who made it, and for what, as the enclave does."""
        parts = parts_of(self.sealed, self.member)
        header = Header.decode(parts["protected"])
        policy = self._federation.policy
        binding = Binding(policy, header.epoch, header.key_id, header.run_id)
        authenticate(Sealed(**parts), header, binding)

    def sign_hop(self) -> dict[str, Any]:
        """Sign the request that hands the update to the enclave."""
        parts = parts_of(self.sealed, self.member)
        request = {"op": "SUBMIT", **{name: b64url(part) for name, part in parts.items()}}
        return _HOP.sign(request, tags_digest(self.sealed))

    def open_into(self, row: np.ndarray) -> None:
        """Open every segment into a row."""
        sealed, target = self.sealed, row.data.cast("B")
        opener = Opener(self._enclave, sealed.protected, sealed.wrap, sealed.tags)
        for index, segment in enumerate(sealed.segments):
            opener.open_segment(index, segment, target[index * SEGMENT_BYTES :])
        opener.finish()


def measure(num_params: int, rounds: int) -> dict[str, float]:
    """Return the milliseconds of each layer, and of the AES-GCM and add floor beside them."""
    sealing, row = Sealing(num_params), np.empty(num_params, np.float32)
    total = np.zeros(num_params, np.float32)

    def screen_and_add() -> None:
        float(row @ row)
        np.add(total, row, out=total)

    folder = TemporaryDirectory()
    contenders: dict[str, Callable[[], object]] = {
        "client_seal_and_sign": sealing.seal,
        "gateway_token_and_proof": _admission(rounds, Path(folder.name)),
        "gateway_read_header": lambda: Header.decode(sealing.sealed.protected),
        "gateway_sign_hop": sealing.sign_hop,
        "enclave_verify_hop": _hop_verification(sealing, rounds),
        "enclave_authenticate": sealing.authenticate,
        "enclave_open": lambda: sealing.open_into(row),
        "enclave_screen_and_add": screen_and_add,
        "floor_aes_and_add": Floor(sealing.delta).work,
    }
    with folder:
        return {name: 1e3 * value for name, value in medians(contenders, rounds).items()}


def checks_ms(layers: dict[str, float]) -> float:
    """Return what the checks of token, proof and envelope cost together, milliseconds of CPU."""
    return sum(layers[name] for name in _CHECKS)


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
        bearer = authenticator.bearer("update:submit", metadata)
        authenticator.check_proof(_METHOD, bearer, metadata)

    return admit


def _hop_verification(sealing: Sealing, rounds: int) -> Callable[[], None]:
    verifier = HopVerifier(_HOP_KEY, _CLOCK)
    made = iter([sealing.sign_hop() for _ in range(rounds + 1)])
    return lambda: verifier.verify(next(made))
