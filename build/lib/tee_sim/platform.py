"""Platforms that vouch for an enclave; the simulated one signs with a key in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.encoding import b64url
from fl_protocol.ports import Clock
from fl_protocol.signatures import sign_payload
from tee_sim.evidence import (
    DOMAIN,
    SIMULATED,
    Claims,
    EnclaveKeys,
    Evidence,
    check_nonce,
    report_data,
)
from tee_sim.policy import EnclavePolicy


@dataclass(frozen=True)
class RunningEnclave:
    """What a platform knows about the enclave it started.

    Parameters
    ----------
    epoch : int
        Boot count; never the same twice.
    measurement : str
        Hexadecimal SHA-384 of the sealed image.
    keys : EnclaveKeys
        Public keys made inside.
    policy : EnclavePolicy
        What the enclave was told to enforce.
    isolation : Mapping of str to str
        Each layer of lockdown with "active" or why it is not.
    debug : bool
        Whether its memory may be read for debugging.
    """

    epoch: int
    measurement: str
    keys: EnclaveKeys
    policy: EnclavePolicy
    isolation: Mapping[str, str]
    debug: bool


class TeePlatform(Protocol):
    """Produces evidence about an enclave."""

    def attest(self, enclave: RunningEnclave, nonce: bytes) -> bytes:
        """Return encoded evidence that answers a challenge of 16 to 64 bytes."""
        ...


class SimulatedPlatform:
    """Signs what it measured with an ordinary key: whoever has root can make it lie.

    Parameters
    ----------
    key : Ed25519PrivateKey
        The platform's key.
    chain : tuple of str
        Its PEM certificates, leaf first, without the root.
    security_version : int
        Version of the platform for the relying parties' minimum.
    clock : Clock
        Time of issue.
    """

    def __init__(
        self, key: Ed25519PrivateKey, chain: tuple[str, ...], security_version: int, clock: Clock
    ) -> None:
        self._key, self._chain = key, chain
        self._security_version, self._clock = security_version, clock
        self._signer_id = hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()

    def attest(self, enclave: RunningEnclave, nonce: bytes) -> bytes:
        """Return encoded evidence; raises EvidenceRejected ``EVIDENCE_NONCE``."""
        check_nonce(nonce)
        claims = Claims(
            v=1,
            platform=SIMULATED,
            nonce=nonce.hex(),
            debug=enclave.debug,
            epoch=enclave.epoch,
            measurement=enclave.measurement,
            signer_id=self._signer_id,
            security_version=self._security_version,
            policy=enclave.policy.to_members(),
            report_data=report_data(enclave.epoch, enclave.keys, enclave.policy.digest, nonce),
            hpke_key=b64url(enclave.keys.hpke),
            receipt_key=b64url(enclave.keys.receipt),
            isolation=enclave.isolation,
            iat=int(self._clock.now()),
        )
        signed = sign_payload(DOMAIN, claims.encode(), self._key)
        return Evidence(signed.payload, signed.signature, self._chain).encode()
