"""The sealed update, version 1: one model delta that only the attested enclave can open.

::

    protected = canonical JSON of `Header`, signed as received, never re-serialised
    info      = "asynclave/update/v1" 0x00 || SHA-256(protected)
    wrap      = HPKE base mode seal of a fresh 32-byte key to the enclave (RFC 9180, section 6.1)
    segment i = AES-256-GCM, nonce = i (11 bytes) || last?, aad = SHA-256(protected), 1 MiB
    signature = Ed25519 over "asynclave/sig/v1" 0x00 || SHA-256(protected)
                || SHA-256(wrap || tag 0 || ... || tag n-1)

The signature covers the GCM tags instead of the whole body: with the key and header fixed by
``wrap`` and ``protected``, a tag authenticates its segment, and hashing the body would cost three
times its decryption. The counter and the last-segment flag in the nonce make truncated, reordered
and appended segments fail (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár,
CRYPTO 2015).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.header import (
    MAX_PROTECTED_BYTES,
    SEGMENT_BYTES,
    SUITE,
    TAG_BYTES,
    Header,
    body_size,
)
from fl_protocol.ports import Rng
from fl_protocol.signatures import is_signed_by

__all__ = [
    "MAX_PROTECTED_BYTES",
    "SEGMENT_BYTES",
    "SUITE",
    "TAG_BYTES",
    "WRAP_BYTES",
    "Header",
    "Opener",
    "SealedUpdate",
    "body_digest",
    "body_size",
    "key_id",
    "seal",
    "verify_signature",
]

WRAP_BYTES = 80

_KEY_BYTES = 32
_INFO = b"asynclave/update/v1\0"
_SIGNATURE = b"asynclave/sig/v1\0"


@dataclass(frozen=True)
class SealedUpdate:
    """A sealed update ready to send: ``segments`` are views of one buffer, in order."""

    protected: bytes
    wrap: bytes
    tags: bytes
    signature: bytes
    segments: tuple[memoryview, ...]


def key_id(enclave_key: bytes) -> str:
    """Return the id of an enclave's raw HPKE public key: its hex SHA-256."""
    return hashlib.sha256(enclave_key).hexdigest()


def body_digest(protected: bytes, wrap: bytes, tags: bytes) -> str:
    """Return the hex SHA-256 that stands for the sealed update in receipts and replay checks."""
    return hashlib.sha256(_commitment(protected, wrap, tags)).hexdigest()


def seal(
    header: Header,
    delta: memoryview,
    enclave_key: bytes,
    identity: Ed25519PrivateKey,
    rng: Rng,
) -> SealedUpdate:
    """Seal a delta to the enclave and sign it as the client.

    Parameters
    ----------
    header : Header
        Its ``ct_len``, ``seg_size`` and ``n_segs`` are set here from the delta's length.
    delta : memoryview
        Contiguous little-endian float32 values, any item format.
    enclave_key : bytes
        The enclave's raw X25519 public key, 32 bytes, from appraised evidence.
    identity : Ed25519PrivateKey
        The client's identity key.
    rng : Rng
        Source of the content key.

    Raises
    ------
    EnvelopeRejected
        ``ENV_MALFORMED`` for a header field that does not fit, ``ENV_SUITE`` for another suite,
        ``ENV_KEY_ID`` for a key that is not a usable X25519 point, ``ENV_LENGTH`` for a delta that
        is too long.
    """
    plain = delta.cast("B")
    ct_len, n_segs = body_size(plain.nbytes)
    sized = replace(header, ct_len=ct_len, seg_size=SEGMENT_BYTES, n_segs=n_segs)
    protected = sized.encode()
    Header.decode(protected)
    context = hashlib.sha256(protected).digest()
    key = rng.bytes(_KEY_BYTES)
    try:
        recipient = X25519PublicKey.from_public_bytes(enclave_key)
        wrap = _suite().encrypt(key, recipient, _INFO + context)
    except ValueError as error:
        raise EnvelopeRejected(Code.ENV_KEY_ID, "The enclave's key is not usable.") from error
    segments = _encrypt(plain, AESGCM(key), context, ct_len, n_segs)
    tags = b"".join(segment[-TAG_BYTES:] for segment in segments)
    signature = identity.sign(_SIGNATURE + _commitment(protected, wrap, tags))
    return SealedUpdate(protected, wrap, tags, signature, segments)


def verify_signature(
    protected: bytes, wrap: bytes, tags: bytes, signature: bytes, public_key: bytes
) -> None:
    """Check that the client's raw 32-byte identity key signed this update.

    Raises
    ------
    EnvelopeRejected
        ``ENV_SIGNATURE``.
    """
    if not is_signed_by(_SIGNATURE, _commitment(protected, wrap, tags), signature, public_key):
        raise EnvelopeRejected(Code.ENV_SIGNATURE)


class Opener:
    """Opens one sealed update segment by segment, straight into the caller's buffer.

    Verify the signature first. Nothing that was opened may be used before `finish` returned.

    Parameters
    ----------
    private_key : X25519PrivateKey
        The enclave's HPKE key.
    protected, wrap, tags : bytes
        As received and signed.
    header : Header, optional
        `protected`, if it was decoded already.

    Raises
    ------
    EnvelopeRejected
        ``ENV_MALFORMED``, ``ENV_SUITE``, ``ENV_LENGTH`` or ``ENV_DECRYPT``.
    """

    def __init__(
        self,
        private_key: X25519PrivateKey,
        protected: bytes,
        wrap: bytes,
        tags: bytes,
        header: Header | None = None,
    ) -> None:
        self.header = header or Header.decode(protected)
        if len(tags) != TAG_BYTES * self.header.n_segs or len(wrap) != WRAP_BYTES:
            raise EnvelopeRejected(Code.ENV_LENGTH)
        self._context = hashlib.sha256(protected).digest()
        try:
            key = _suite().decrypt(wrap, private_key, _INFO + self._context)
        except (InvalidTag, ValueError) as error:
            raise EnvelopeRejected(Code.ENV_DECRYPT) from error
        if len(key) != _KEY_BYTES:
            raise EnvelopeRejected(Code.ENV_DECRYPT)
        self._cipher = AESGCM(key)
        self._tags = tags
        self._opened = [False] * self.header.n_segs

    def open_segment(
        self, index: int, ciphertext: bytes | bytearray | memoryview, out: memoryview
    ) -> int:
        """Decrypt one segment (ciphertext and tag) into the start of `out`.

        Parameters
        ----------
        index : int
            Position of the segment, from 0; each is opened once.
        ciphertext : bytes-like
            The segment as sent.
        out : memoryview
            Writable bytes (format "B"), at least `Header.segment_plain_len` long; on failure its
            content is undefined.

        Returns
        -------
        int
            The number of bytes written.

        Raises
        ------
        EnvelopeRejected
            ``ENV_LENGTH`` for a segment out of range, repeated, or of wrong size;
            ``ENV_DECRYPT`` for one that was changed.
        """
        if not 0 <= index < self.header.n_segs or self._opened[index]:
            raise EnvelopeRejected(Code.ENV_LENGTH)
        size = self.header.segment_plain_len(index)
        if len(ciphertext) != size + TAG_BYTES or out.nbytes < size:
            raise EnvelopeRejected(Code.ENV_LENGTH)
        signed_tag = self._tags[index * TAG_BYTES : (index + 1) * TAG_BYTES]
        if not hmac.compare_digest(ciphertext[-TAG_BYTES:], signed_tag):
            raise EnvelopeRejected(Code.ENV_DECRYPT)
        nonce = _nonce(index, index == self.header.n_segs - 1)
        try:
            self._cipher.decrypt_into(nonce, ciphertext, self._context, out[:size])
        except InvalidTag as error:
            raise EnvelopeRejected(Code.ENV_DECRYPT) from error
        self._opened[index] = True
        return size

    def finish(self) -> None:
        """Check that every segment was opened.

        Raises
        ------
        EnvelopeRejected
            ``ENV_LENGTH``.
        """
        if not all(self._opened):
            raise EnvelopeRejected(Code.ENV_LENGTH)


def _suite() -> hpke.Suite:
    return hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _nonce(index: int, last: bool) -> bytes:
    return index.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _commitment(protected: bytes, wrap: bytes, tags: bytes) -> bytes:
    return hashlib.sha256(protected).digest() + hashlib.sha256(wrap + tags).digest()


def _encrypt(
    plain: memoryview, cipher: AESGCM, context: bytes, ct_len: int, n_segs: int
) -> tuple[memoryview, ...]:
    body = memoryview(bytearray(ct_len))
    step = SEGMENT_BYTES + TAG_BYTES
    segments = tuple(body[index * step : (index + 1) * step] for index in range(n_segs))
    for index, segment in enumerate(segments):
        part = plain[index * SEGMENT_BYTES : (index + 1) * SEGMENT_BYTES]
        cipher.encrypt_into(_nonce(index, index == n_segs - 1), part, context, segment)
    return segments
