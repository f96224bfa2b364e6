"""Domain-separated Ed25519 signatures over canonical records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
KEY_BYTES = 32


@dataclass(frozen=True)
class Signed:
    """A payload as it was signed, never re-serialised, with its Ed25519 signature."""

    payload: bytes
    signature: bytes

    @classmethod
    def of(cls, message: SignedMessage) -> Self:
        """Take both from a message that has them."""
        return cls(message.payload, message.signature)


class SignedMessage(Protocol):
    """A message of the wire with a payload and its signature."""

    payload: bytes
    signature: bytes


def sign_payload(domain: bytes, payload: bytes, key: Ed25519PrivateKey) -> Signed:
    """Sign ``domain || payload``."""
    return Signed(payload, key.sign(domain + payload))


def is_signed_by(domain: bytes, payload: bytes, signature: bytes, public_key: bytes) -> bool:
    """Say whether a raw 32-byte public key signed ``domain || payload`` (RFC 8032, 5.1.7)."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, domain + payload)
    except (InvalidSignature, ValueError):
        return False
    return True
