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


# RFC 8032, section 5.1: the field of Ed25519, and the five y of its eight points of small order.
_PRIME = 2**255 - 19
_Y_OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _PRIME - 1, _Y_OF_ORDER_8, _PRIME - _Y_OF_ORDER_8})


def has_small_order(public_key: bytes) -> bool:
    """Say whether a raw Ed25519 public key is one of the eight points of small order.

    Whoever uses one has no secret: signatures that pass under it can be made by anybody.
    """
    y = int.from_bytes(public_key, "little") & ((1 << 255) - 1)
    return y % _PRIME in _SMALL_ORDER


def is_signed_by(domain: bytes, payload: bytes, signature: bytes, public_key: bytes) -> bool:
    """Say whether a raw 32-byte public key signed ``domain || payload`` (RFC 8032, 5.1.7).

    Nobody did where the key has small order.
    """
    if has_small_order(public_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, domain + payload)
    except (InvalidSignature, ValueError):
        return False
    return True
