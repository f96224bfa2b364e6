"""What the enclave signs: a receipt per update and a record per release, in one hash chain.

Each record names the SHA-256 of the signed record before it, so removing, reordering or editing
one breaks the chain for whoever kept its head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol import records
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, ReceiptRejected
from fl_protocol.records import Count, Digest, Name, Version1, Word
from fl_protocol.signatures import Signed, is_signed_by, sign_payload

ACCEPTED = "accepted"
GENESIS = "0" * 64

_MAX_BYTES = 4096


@dataclass(frozen=True)
class Receipt:
    """The enclave's answer to one update: ``outcome`` is "accepted" or a refusal code.

    ``body_digest`` is `envelope.body_digest` of what was received, ``version`` the model version
    after the update was taken in, ``iat`` Unix seconds.
    """

    v: Version1
    federation: Name
    run_id: Name
    client_id: Name
    update_id: Name
    body_digest: Digest
    base_version: Count
    outcome: Word
    staleness: Count
    version: Count
    epoch: Count
    seq: Count
    prev: Digest
    iat: Count


@dataclass(frozen=True)
class Release:
    """The enclave's word for one released model; digests are hexadecimal SHA-256."""

    v: Version1
    run_id: Name
    version: Count
    model_digest: Digest
    manifest_digest: Digest
    num_updates: Count
    num_clients: Count
    epoch: Count
    seq: Count
    prev: Digest
    iat: Count
    policy_digest: Digest


_DOMAINS: dict[type[Receipt] | type[Release], bytes] = {
    Receipt: b"asynclave/receipt/v1\0",
    Release: b"asynclave/release/v1\0",
}
_Kind = TypeVar("_Kind", Receipt, Release)


def sign(record: Receipt | Release, key: Ed25519PrivateKey) -> Signed:
    """Sign a record with the enclave's receipt key.

    Raises
    ------
    CanonicalError
        If a field does not fit its definition.
    """
    return sign_payload(_DOMAINS[type(record)], records.encode(record), key)


def record_digest(signed: Signed) -> str:
    """Return the chain link of a signed record: hex SHA-256 of payload and signature."""
    return hashlib.sha256(signed.payload + signed.signature).hexdigest()


def verify_receipt(signed: Signed, receipt_key: bytes) -> Receipt:
    """Read a receipt signed by the enclave's raw 32-byte receipt key.

    Raises
    ------
    ReceiptRejected
        ``RECEIPT_INVALID``.
    """
    return _verify(Receipt, signed, receipt_key)


def verify_release(signed: Signed, receipt_key: bytes) -> Release:
    """Read a release record signed by the enclave's raw 32-byte receipt key.

    Raises
    ------
    ReceiptRejected
        ``RECEIPT_INVALID``.
    """
    return _verify(Release, signed, receipt_key)


def verify_chain(
    chain: Sequence[Signed], receipt_key: bytes, prev: str = GENESIS, seq: int = 0
) -> int | None:
    """Find the first record that does not continue the chain.

    Parameters
    ----------
    chain : sequence of Signed
        Receipts and releases of one epoch in the order they were signed, with none left out.
    receipt_key : bytes
        The epoch's raw receipt key.
    prev : str
        Digest of the record before the first one; `GENESIS` at the start of an epoch.
    seq : int
        Sequence number the first record must carry.

    Returns
    -------
    int or None
        Index of the first wrong record, or None when the whole chain holds.
    """
    for index, signed in enumerate(chain):
        try:
            record = _verify_either(signed, receipt_key)
        except ReceiptRejected:
            return index
        if record.prev != prev or record.seq != seq + index:
            return index
        prev = record_digest(signed)
    return None


def _verify(kind: type[_Kind], signed: Signed, receipt_key: bytes) -> _Kind:
    if not is_signed_by(_DOMAINS[kind], signed.payload, signed.signature, receipt_key):
        raise ReceiptRejected(Code.RECEIPT_INVALID)
    try:
        return records.decode(kind, signed.payload, _MAX_BYTES)
    except CanonicalError as error:
        raise ReceiptRejected(Code.RECEIPT_INVALID) from error


def _verify_either(signed: Signed, receipt_key: bytes) -> Receipt | Release:
    try:
        return verify_receipt(signed, receipt_key)
    except ReceiptRejected:
        return verify_release(signed, receipt_key)
