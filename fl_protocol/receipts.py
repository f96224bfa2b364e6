"""What the enclave signs: opened runs, a receipt per update, releases; all in one hash chain.

Each record names the SHA-256 of the signed record before it, so removing, reordering or editing
one breaks the chain for whoever kept its head, and a signed `Head` says where the chain ends.
`fl_protocol.chain` finds what was done to one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol import records
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, ReceiptRejected
from fl_protocol.records import Count, Digest, Hex16, Name, Version1, Word
from fl_protocol.signatures import Signed, is_signed_by, sign_payload

ACCEPTED = "accepted"
GENESIS = "0" * 64
NO_PRIVACY = "none"

_MAX_BYTES = 4096


@dataclass(frozen=True)
class Opening:
    """A run was opened from a model, which discards what was buffered for another.

    Digests are hexadecimal SHA-256, ``iat`` Unix seconds. ``continues`` is `record_digest` of the
    newest release of the run that was handed out before, `GENESIS` if none was. What was merged
    after it was seen by nobody.
    """

    v: Version1
    run_id: Name
    version: Count
    model_digest: Digest
    manifest_digest: Digest
    continues: Digest
    epoch: Count
    seq: Count
    prev: Digest
    iat: Count
    policy_digest: Digest


@dataclass(frozen=True)
class Receipt:
    """The enclave's answer to one update: ``outcome`` is "accepted" or a refusal code.

    Only updates whose sender was authenticated get one. ``body_digest`` is `envelope.body_digest`
    of what was received, ``version`` the model version after the update was taken in, ``trace_id``
    the one its sender chose, ``iat`` Unix seconds.
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
    trace_id: Hex16


@dataclass(frozen=True)
class Release:
    """The enclave's word for one released model; digests are hexadecimal SHA-256.

    ``updates_digest`` is `updates_digest` of the ids of the updates in it, in the order of their
    receipts. ``epsilon`` is a decimal, what the releases up to this one have spent of the privacy
    of the client in most of them, at the policy's delta; "none" without differential privacy.
    """

    v: Version1
    run_id: Name
    version: Count
    model_digest: Digest
    manifest_digest: Digest
    updates_digest: Digest
    num_updates: Count
    num_clients: Count
    epsilon: Name
    epoch: Count
    seq: Count
    prev: Digest
    iat: Count
    policy_digest: Digest


@dataclass(frozen=True)
class Head:
    """Where an epoch's chain ends: how many records it has, and the digest of the last.

    A head is not part of the chain.
    """

    v: Version1
    epoch: Count
    length: Count
    last: Digest
    iat: Count


class Standing(StrEnum):
    """What became of an update.

    ``RELEASED``: it is in a release that was handed out. ``BUFFERED``: this enclave has accepted
    it, and it is in no such release yet. ``UNKNOWN``: neither, as far back as an update may lie.
    """

    RELEASED = "released"
    BUFFERED = "buffered"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class UpdateStatus:
    """The enclave's answer to a client that asks what became of its update.

    ``state`` is a `Standing`, ``nonce`` the question's. A status is not part of the chain.
    """

    v: Version1
    run_id: Name
    client_id: Name
    update_id: Name
    state: Word
    nonce: Hex16
    epoch: Count
    iat: Count


Chained: TypeAlias = Opening | Receipt | Release
_Signable: TypeAlias = Chained | Head | UpdateStatus

_DOMAINS: Mapping[type[_Signable], bytes] = MappingProxyType(
    {
        Opening: b"asynclave/opening/v1\0",
        Receipt: b"asynclave/receipt/v1\0",
        Release: b"asynclave/release/v1\0",
        Head: b"asynclave/head/v1\0",
        UpdateStatus: b"asynclave/status/v1\0",
    }
)
_KINDS: tuple[type[Chained], ...] = (Opening, Receipt, Release)
_Kind = TypeVar("_Kind", Opening, Receipt, Release, Head, UpdateStatus)


def sign(record: _Signable, key: Ed25519PrivateKey) -> Signed:
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


def updates_digest(update_ids: Iterable[str]) -> str:
    """Return the hex SHA-256 of update ids joined by newlines, which no id contains."""
    return hashlib.sha256("\n".join(update_ids).encode("ascii")).hexdigest()


def verify_opening(signed: Signed, receipt_key: bytes) -> Opening:
    """Read an opening signed by the enclave's raw 32-byte receipt key.

    Raises
    ------
    ReceiptRejected
        ``RECEIPT_INVALID``.
    """
    return _verify(Opening, signed, receipt_key)


def verify_receipt(signed: Signed, receipt_key: bytes) -> Receipt:
    """Read a receipt; parameters and errors are those of `verify_opening`."""
    return _verify(Receipt, signed, receipt_key)


def verify_release(signed: Signed, receipt_key: bytes) -> Release:
    """Read a release record; parameters and errors are those of `verify_opening`."""
    return _verify(Release, signed, receipt_key)


def verify_head(signed: Signed, receipt_key: bytes) -> Head:
    """Read a signed head; parameters and errors are those of `verify_opening`."""
    return _verify(Head, signed, receipt_key)


def verify_status(signed: Signed, receipt_key: bytes) -> UpdateStatus:
    """Read a signed status; parameters and errors are those of `verify_opening`."""
    return _verify(UpdateStatus, signed, receipt_key)


def verify_record(signed: Signed, receipt_key: bytes) -> Chained:
    """Read a record of any kind; parameters and errors are those of `verify_opening`."""
    record = read_record(signed)
    if not is_from(record, signed, receipt_key):
        raise ReceiptRejected(Code.RECEIPT_INVALID)
    return record


def read_record(signed: Signed) -> Chained:
    """Read a record of any kind without looking at its signature; raises ReceiptRejected."""
    try:
        members = json.loads(signed.payload[:_MAX_BYTES])
        for kind in _KINDS:
            if members.keys() == {field.name for field in fields(kind)}:
                return records.decode(kind, signed.payload, _MAX_BYTES)
    except (CanonicalError, ValueError, RecursionError, AttributeError) as error:
        raise ReceiptRejected(Code.RECEIPT_INVALID) from error
    raise ReceiptRejected(Code.RECEIPT_INVALID)


def read_head(signed: Signed) -> Head:
    """Read a head without looking at its signature; raises ReceiptRejected."""
    try:
        return records.decode(Head, signed.payload, _MAX_BYTES)
    except CanonicalError as error:
        raise ReceiptRejected(Code.RECEIPT_INVALID) from error


def is_from(record: Chained, signed: Signed, receipt_key: bytes) -> bool:
    """Say whether an enclave's raw 32-byte receipt key signed what `record` was read from."""
    return is_signed_by(_DOMAINS[type(record)], signed.payload, signed.signature, receipt_key)


def _verify(kind: type[_Kind], signed: Signed, receipt_key: bytes) -> _Kind:
    if not is_signed_by(_DOMAINS[kind], signed.payload, signed.signature, receipt_key):
        raise ReceiptRejected(Code.RECEIPT_INVALID)
    try:
        return records.decode(kind, signed.payload, _MAX_BYTES)
    except CanonicalError as error:
        raise ReceiptRejected(Code.RECEIPT_INVALID) from error
