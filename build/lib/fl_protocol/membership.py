"""The issuer's signed statement that an identity key belongs to a client of a federation.

The enclave trusts the issuer's key (it stands in the enclave's policy), so a gateway cannot pass
off an update under a name that was never enrolled. Statements do not expire; revocation is the
gateway's.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol import records
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.records import Name, PublicKey, Version1, Word
from fl_protocol.signatures import SIGNATURE_BYTES, is_signed_by, sign_payload

_DOMAIN = b"asynclave/member/v1\0"
_MAX_BYTES = 1024


@dataclass(frozen=True)
class Membership:
    """Who a client is: its federation, name, raw Ed25519 identity key (base64url) and role."""

    v: Version1
    federation: Name
    client_id: Name
    identity_key: PublicKey
    role: Word

    @classmethod
    def of(cls, federation: str, client_id: str, identity_key: bytes, role: str) -> Membership:
        """Build a statement from a raw 32-byte identity key."""
        return cls(1, federation, client_id, b64url(identity_key), role)

    def public_key(self) -> bytes:
        """Return the raw identity key, 32 bytes."""
        return b64url_decode(self.identity_key)


def sign_membership(membership: Membership, issuer: Ed25519PrivateKey) -> bytes:
    """Return ``signature (64 bytes) || canonical JSON``.

    Raises
    ------
    CanonicalError
        If a field does not fit its definition.
    """
    signed = sign_payload(_DOMAIN, records.encode(membership), issuer)
    return signed.signature + signed.payload


def verify_membership(blob: bytes, issuer_key: bytes) -> Membership:
    """Read a statement signed by the issuer.

    Parameters
    ----------
    blob : bytes
        What `sign_membership` returned.
    issuer_key : bytes
        The issuer's raw Ed25519 public key, 32 bytes.

    Raises
    ------
    EnvelopeRejected
        ``ENV_MEMBERSHIP`` if the signature or any byte of the statement is wrong.
    """
    signature, payload = blob[:SIGNATURE_BYTES], blob[SIGNATURE_BYTES:]
    if not is_signed_by(_DOMAIN, payload, signature, issuer_key):
        raise EnvelopeRejected(Code.ENV_MEMBERSHIP)
    try:
        membership = records.decode(Membership, payload, _MAX_BYTES)
        membership.public_key()
    except (CanonicalError, ValueError) as error:
        raise EnvelopeRejected(Code.ENV_MEMBERSHIP) from error
    return membership
