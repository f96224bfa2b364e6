"""Attestation evidence: claims about one enclave, signed by its platform.

The claims follow the Entity Attestation Token (RFC 9711): nonce, debug status, boot count (here
the epoch), software measurement; the roles are those of RFC 9334. ``report_data`` binds the
enclave's keys and policy to the platform's signature:

    SHA-512("asynclave/report/v1" 0x00 || epoch (8 bytes) || HPKE key || receipt key
            || policy digest || nonce)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, EvidenceRejected
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.signatures import KEY_BYTES, SIGNATURE_BYTES

MAX_EVIDENCE_BYTES = 16 << 10
MIN_NONCE_BYTES, MAX_NONCE_BYTES = 16, 64
SIMULATED = "simulated"
DOMAIN = b"asynclave/evidence/v1\0"
LAST_SECOND = 253_402_300_799  # of the year 9999, where the calendar ends

_REPORT = b"asynclave/report/v1\0"
_MAX_CHAIN = 4
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_PLATFORM = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True)
class EnclaveKeys:
    """An enclave's raw public keys, 32 bytes each: HPKE (X25519) and receipts (Ed25519)."""

    hpke: bytes
    receipt: bytes


@dataclass(frozen=True)
class Evidence:
    """What a platform hands out.

    Parameters
    ----------
    payload : bytes
        Encoded claims.
    signature : bytes
        Over the domain and the payload: the simulated platform's, or beside a hardware quote the
        enclave's own with its receipt key, which the quote's report data vouches for.
    chain : tuple of str
        PEM certificates from the leaf upwards; empty where the quote carries them.
    quote : bytes
        Hardware quote or report; empty on the simulated platform.
    """

    payload: bytes
    signature: bytes
    chain: tuple[str, ...]
    quote: bytes = b""

    def encode(self) -> bytes:
        """Return the canonical JSON that travels."""
        members = {
            "payload": b64url(self.payload),
            "signature": b64url(self.signature),
            "chain": list(self.chain),
        }
        return canonical.encode(members | ({"quote": b64url(self.quote)} if self.quote else {}))

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        """Read what `encode` wrote; raises EvidenceRejected ``EVIDENCE_MALFORMED``."""
        try:
            members = canonical.decode_object(data, MAX_EVIDENCE_BYTES)
            _require(members.keys() - {"quote"} == {"payload", "signature", "chain"})
            quote = b64url_decode(members["quote"]) if "quote" in members else b""
            _require(bool(quote) == ("quote" in members))
            chain = members["chain"]
            _require(type(chain) is list and len(chain) <= _MAX_CHAIN and bool(chain or quote))
            _require(all(type(certificate) is str for certificate in chain))
            signature = b64url_decode(members["signature"])
            _require(len(signature) == SIGNATURE_BYTES)
            return cls(b64url_decode(members["payload"]), signature, tuple(chain), quote)
        except (CanonicalError, ValueError, TypeError, AttributeError) as error:
            raise EvidenceRejected(Code.EVIDENCE_MALFORMED) from error


@dataclass(frozen=True)
class Claims:
    """What evidence says; ``policy`` is the whole policy as canonical-JSON members.

    Digests and nonce are hexadecimal, keys base64url, ``iat`` Unix seconds up to `LAST_SECOND`;
    ``isolation`` tells for each layer of lockdown whether it is active. ``tcb`` are versions of the
    platform's parts by name, ``tcb_status`` is its vendor's judgement of them, empty without
    collateral, and ``unsafe_attributes`` names what of a trust domain's attributes is refused, and
    ``code_signers`` has digests of the keys that signed the code (``signer_id`` is the platform's);
    these come from a verifier, never from the payload.
    """

    v: int
    platform: str
    nonce: str
    debug: bool
    epoch: int
    measurement: str
    signer_id: str
    security_version: int
    policy: Mapping[str, Any]
    report_data: str
    hpke_key: str
    receipt_key: str
    isolation: Mapping[str, str]
    iat: int
    tcb: Mapping[str, int] = field(default_factory=dict)
    tcb_status: str = ""
    unsafe_attributes: tuple[str, ...] = ()
    code_signers: tuple[str, ...] = ()

    def keys(self) -> EnclaveKeys:
        """Return the enclave's raw keys."""
        return EnclaveKeys(b64url_decode(self.hpke_key), b64url_decode(self.receipt_key))

    def encode(self) -> bytes:
        """Return the canonical JSON that is signed."""
        members = {name: getattr(self, name) for name in _RULES}
        return canonical.encode(
            members | {"policy": dict(self.policy), "isolation": dict(self.isolation)}
        )

    @classmethod
    def decode(cls, payload: bytes) -> Claims:
        """Read signed claims, strictly typed; raises EvidenceRejected ``EVIDENCE_MALFORMED``."""
        try:
            members = canonical.decode_object(payload, MAX_EVIDENCE_BYTES)
            _require(members.keys() == _RULES.keys())
            _require(all(rule(members[name]) for name, rule in _RULES.items()))
            return cls(**members)
        except (CanonicalError, ValueError) as error:
            raise EvidenceRejected(Code.EVIDENCE_MALFORMED) from error


def report_data(epoch: int, keys: EnclaveKeys, policy_digest: str, nonce: bytes) -> str:
    """Return the hexadecimal report data that binds keys and policy to the evidence."""
    parts = (
        _REPORT,
        epoch.to_bytes(8, "big"),
        keys.hpke,
        keys.receipt,
        bytes.fromhex(policy_digest),
        nonce,
    )
    return hashlib.sha512(b"".join(parts)).hexdigest()


def check_nonce(nonce: bytes) -> None:
    """Refuse a challenge of unsuitable length; raises EvidenceRejected ``EVIDENCE_NONCE``."""
    if not MIN_NONCE_BYTES <= len(nonce) <= MAX_NONCE_BYTES:
        raise EvidenceRejected(
            Code.EVIDENCE_NONCE,
            f"The challenge must have {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES} bytes.",
        )


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError("not the form of evidence")


def _hexadecimal(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: (
        type(value) is str and low <= len(value) // 2 <= high and _HEX.fullmatch(value) is not None
    )


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _time(value: object) -> bool:
    # Kept evidence is judged as of this time, before anything vouches for it.
    return type(value) is int and 0 <= value <= LAST_SECOND


def _key(value: object) -> bool:
    return type(value) is str and len(b64url_decode(value)) == KEY_BYTES


def _texts(value: object) -> bool:
    return type(value) is dict and all(type(text) is str for text in value.values())


_RULES: dict[str, Callable[[object], bool]] = {
    "v": lambda value: type(value) is int and value == 1,
    "platform": lambda value: type(value) is str and _PLATFORM.fullmatch(value) is not None,
    "nonce": _hexadecimal(MIN_NONCE_BYTES, MAX_NONCE_BYTES),
    "debug": lambda value: type(value) is bool,
    "epoch": _whole,
    "measurement": lambda value: _hexadecimal(48, 48)(value) or _hexadecimal(32, 32)(value),
    "signer_id": _hexadecimal(32, 32),
    "security_version": _whole,
    "policy": lambda value: type(value) is dict,
    "report_data": _hexadecimal(64, 64),
    "hpke_key": _key,
    "receipt_key": _key,
    "isolation": _texts,
    "iat": _time,
}
