"""The signed header of a sealed update: who, for which run and version, to which enclave."""

from __future__ import annotations

from dataclasses import dataclass

from fl_protocol import records
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.records import Count, Digest, Hex16, Integer, Name, Version1

VALID_SECONDS = 600
"""How long an update is valid from when it was sealed, unless its node says otherwise."""
SUITE = "X25519-HKDF-SHA256-AES-256-GCM"
SEGMENT_BYTES = 1 << 20
TAG_BYTES = 16
MAX_PROTECTED_BYTES = 4096
MAX_SEGMENTS = 1 << 16


@dataclass(frozen=True)
class Header:
    """What a sealed update says about itself, bound to its ciphertext and signature.

    Digests and ids are lower-case hexadecimal: ``key_id`` is `key_id` of the enclave's HPKE key,
    ``nonce`` and ``trace_id`` are 16 random bytes. ``ct_len`` counts the whole body in bytes, tags
    included. ``iat`` and ``exp`` are Unix seconds.
    """

    v: Version1
    suite: Name
    federation: Name
    run_id: Name
    epoch: Count
    key_id: Digest
    policy_digest: Digest
    client_id: Name
    base_version: Count
    base_model_digest: Digest
    # Any integer decodes: whether it is a sensible weight is the engine's refusal to make.
    num_examples: Integer
    manifest_digest: Digest
    # Everything but the model that steered local training; equal within a buffer.
    task_digest: Digest
    ct_len: Count
    seg_size: Count
    n_segs: Count
    nonce: Hex16
    update_id: Name
    iat: Count
    exp: Count
    trace_id: Hex16

    def encode(self) -> bytes:
        """Return the canonical JSON that is signed.

        Raises
        ------
        EnvelopeRejected
            ``ENV_MALFORMED`` naming the field that does not fit.
        """
        try:
            return records.encode(self)
        except CanonicalError as error:
            raise EnvelopeRejected(Code.ENV_MALFORMED, f"Sealed update header: {error}.") from error

    @classmethod
    def decode(cls, protected: bytes) -> Header:
        """Read a header, strictly typed, and check its suite and its arithmetic.

        Raises
        ------
        EnvelopeRejected
            ``ENV_MALFORMED``, ``ENV_SUITE`` or ``ENV_LENGTH``.
        """
        try:
            header = records.decode(cls, protected, MAX_PROTECTED_BYTES)
        except CanonicalError as error:
            raise EnvelopeRejected(Code.ENV_MALFORMED, f"Sealed update header: {error}.") from error
        if header.suite != SUITE:
            raise EnvelopeRejected(Code.ENV_SUITE)
        if (
            header.seg_size != SEGMENT_BYTES
            or not 1 <= header.n_segs <= MAX_SEGMENTS
            or (header.ct_len, header.n_segs) != body_size(header.plain_len)
        ):
            raise EnvelopeRejected(Code.ENV_LENGTH)
        return header

    @property
    def plain_len(self) -> int:
        """Length of the delta in bytes."""
        return self.ct_len - TAG_BYTES * self.n_segs

    def segment_plain_len(self, index: int) -> int:
        """Length in bytes of segment `index` once opened."""
        return min(SEGMENT_BYTES, self.plain_len - index * SEGMENT_BYTES)


def body_size(plain_len: int) -> tuple[int, int]:
    """Return ``(ct_len, n_segs)`` for a delta of `plain_len` bytes; empty means one segment."""
    n_segs = max(1, -(-plain_len // SEGMENT_BYTES))
    return plain_len + TAG_BYTES * n_segs, n_segs
