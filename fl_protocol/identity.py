"""A node's identity: its two keys, what it signs with them, and where they are kept.

The identity key says who a client is (enrolment, sealed updates); the proof key accompanies calls
and can be replaced without enrolling again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, EnrolmentRejected
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.ports import Disk, LocalDisk, Rng
from fl_protocol.proof import thumbprint
from fl_protocol.signatures import KEY_BYTES, is_signed_by
from fl_protocol.storage import write_private
from fl_protocol.token_store import FileTokens

NONCE_BYTES = 16
GRANT_WINDOW = 60

_ENROL = b"asynclave/enrol/v1\0"
_GRANT = b"asynclave/grant/v1\0"
_MAX_BYTES = 4096


@dataclass(frozen=True)
class Identity:
    """A client's or server's private keys."""

    identity_key: Ed25519PrivateKey
    proof_key: Ed25519PrivateKey

    @classmethod
    def generate(cls, rng: Rng) -> Identity:
        """Make new keys from a cryptographic source."""
        return cls(
            Ed25519PrivateKey.from_private_bytes(rng.bytes(KEY_BYTES)),
            Ed25519PrivateKey.from_private_bytes(rng.bytes(KEY_BYTES)),
        )

    @property
    def public_identity_key(self) -> bytes:
        """The raw public identity key, 32 bytes."""
        return self.identity_key.public_key().public_bytes_raw()

    @property
    def public_proof_key(self) -> bytes:
        """The raw public proof key, 32 bytes."""
        return self.proof_key.public_key().public_bytes_raw()

    @property
    def jkt(self) -> str:
        """Thumbprint of the proof key, as access tokens name it."""
        return thumbprint(self.public_proof_key)

    def sign_enrolment(self, ticket: str) -> bytes:
        """Sign the request to enrol with a ticket."""
        message = enrol_message(ticket, self.public_identity_key, self.public_proof_key)
        return self.identity_key.sign(message)

    def sign_grant(self, client_id: str, iat: int, nonce: bytes) -> bytes:
        """Sign the request for an access token."""
        message = grant_message(client_id, iat, nonce, self.public_proof_key)
        return self.identity_key.sign(message)


@dataclass(frozen=True)
class Enrolment:
    """What the issuer said about this identity: its name and the signed membership statement."""

    client_id: str
    membership: bytes


def enrol_message(ticket: str, identity_key: bytes, proof_key: bytes) -> bytes:
    """Return what an enrolment's signature covers; keys are raw 32-byte public keys."""
    return _ENROL + hashlib.sha256(ticket.encode()).digest() + identity_key + proof_key


def grant_message(client_id: str, iat: int, nonce: bytes, proof_key: bytes) -> bytes:
    """Return what an identity grant's signature covers; `iat` in Unix seconds."""
    name = hashlib.sha256(client_id.encode()).digest()
    return _GRANT + name + iat.to_bytes(8, "big", signed=True) + nonce + proof_key


def verify_enrolment(ticket: str, identity_key: bytes, proof_key: bytes, signature: bytes) -> None:
    """Check that the identity key asks to enrol with this ticket and proof key.

    Raises
    ------
    EnrolmentRejected
        ``IDENTITY_INVALID``.
    """
    message = enrol_message(ticket, identity_key, proof_key)
    if len(proof_key) != KEY_BYTES or not is_signed_by(b"", message, signature, identity_key):
        raise EnrolmentRejected(Code.IDENTITY_INVALID)


def verify_grant(
    client_id: str,
    iat: int,
    nonce: bytes,
    proof_key: bytes,
    signature: bytes,
    identity_key: bytes,
    now: float,
) -> None:
    """Check that the identity key asks, now, for a token bound to this proof key.

    The caller remembers nonces for `GRANT_WINDOW` seconds on either side of now.

    Raises
    ------
    EnrolmentRejected
        ``IDENTITY_INVALID``.
    """
    message = grant_message(client_id, iat, nonce, proof_key)
    if (
        len(nonce) != NONCE_BYTES
        or len(proof_key) != KEY_BYTES
        or abs(now - iat) > GRANT_WINDOW
        or not is_signed_by(b"", message, signature, identity_key)
    ):
        raise EnrolmentRejected(Code.IDENTITY_INVALID)


class IdentityStore:
    """Keeps keys, enrolment and tokens in a folder, each file mode 0600 and replaced atomically.

    Parameters
    ----------
    folder : Path
        Created when first written.
    disk : Disk, optional
        The local disk by default.

    Attributes
    ----------
    tokens : FileTokens
        Shared by the processes of the node.

    Raises
    ------
    StorageFailed
        ``JOURNAL_FULL`` or ``JOURNAL_FAILED`` from every method that writes.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._disk = disk or LocalDisk()
        self._keys = folder / "identity.json"
        self._enrolment = folder / "enrolment.json"
        self.tokens = FileTokens(folder, self._disk)

    def load(self) -> Identity | None:
        """Return the stored keys, or None when there are none.

        Raises
        ------
        EnrolmentRejected
            ``IDENTITY_INVALID`` naming the file if it is damaged.
        """
        if not self._disk.exists(self._keys):
            return None
        identity_key, proof_key = self._read(self._keys, "identity_key", "proof_key")
        try:
            return Identity(
                Ed25519PrivateKey.from_private_bytes(b64url_decode(identity_key)),
                Ed25519PrivateKey.from_private_bytes(b64url_decode(proof_key)),
            )
        except ValueError as error:
            raise _damaged(self._keys) from error

    def save(self, identity: Identity) -> None:
        """Store keys."""
        members = {
            "identity_key": b64url(identity.identity_key.private_bytes_raw()),
            "proof_key": b64url(identity.proof_key.private_bytes_raw()),
        }
        write_private(self._disk, self._keys, canonical.encode(members))

    def load_or_create(self, rng: Rng) -> Identity:
        """Return the stored keys, or new ones: the same to all processes that begin at once."""
        with self.tokens.alone():
            identity = self.load()
            if identity is None:
                identity = Identity.generate(rng)
                self.save(identity)
            return identity

    def load_enrolment(self) -> Enrolment | None:
        """Return the stored enrolment, or None before the first one.

        Raises
        ------
        EnrolmentRejected
            ``IDENTITY_INVALID`` naming the file if it is damaged.
        """
        if not self._disk.exists(self._enrolment):
            return None
        client_id, membership = self._read(self._enrolment, "client_id", "membership")
        try:
            return Enrolment(client_id, b64url_decode(membership))
        except ValueError as error:
            raise _damaged(self._enrolment) from error

    def save_enrolment(self, enrolment: Enrolment) -> None:
        """Store an enrolment."""
        members = {"client_id": enrolment.client_id, "membership": b64url(enrolment.membership)}
        write_private(self._disk, self._enrolment, canonical.encode(members))

    def _read(self, path: Path, *names: str) -> list[str]:
        try:
            members = canonical.decode_object(self._disk.read(path), _MAX_BYTES)
        except CanonicalError as error:
            raise _damaged(path) from error
        if members.keys() != set(names) or not all(isinstance(members[n], str) for n in names):
            raise _damaged(path)
        return [members[name] for name in names]


def _damaged(path: Path) -> EnrolmentRejected:
    return EnrolmentRejected(
        Code.IDENTITY_INVALID,
        f"{path} is damaged; restore it, or remove the folder and enrol with a new ticket.",
    )
