from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, EnvelopeRejected, ReceiptRejected
from fl_protocol.membership import Membership, sign_membership, verify_membership
from fl_protocol.receipts import (
    ACCEPTED,
    GENESIS,
    Receipt,
    Release,
    sign,
    verify_receipt,
    verify_release,
)
from fl_protocol.signatures import Signed
from tests.protocol.support import DIGEST

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x06" * 32)

RECEIPT = Receipt(
    v=1,
    federation="demo",
    run_id="run-1",
    client_id="client-7",
    update_id="update-1",
    body_digest=DIGEST,
    base_version=4,
    outcome=ACCEPTED,
    staleness=1,
    version=5,
    epoch=3,
    seq=0,
    prev=GENESIS,
    iat=1_800_000_000,
    trace_id="ab" * 16,
)
RELEASE = Release(
    v=1,
    run_id="run-1",
    version=6,
    model_digest=DIGEST,
    manifest_digest=DIGEST,
    updates_digest=DIGEST,
    num_updates=10,
    num_clients=10,
    epsilon="none",
    epoch=3,
    seq=0,
    prev=GENESIS,
    iat=1_800_000_000,
    policy_digest=DIGEST,
)


def test_reads_back_a_receipt_and_a_release():
    assert verify_receipt(sign(RECEIPT, KEY), PUBLIC) == RECEIPT
    assert verify_release(sign(RELEASE, KEY), PUBLIC) == RELEASE


def test_refuses_a_receipt_of_another_key():
    with pytest.raises(ReceiptRejected, match=r"^RECEIPT_INVALID:"):
        verify_receipt(sign(RECEIPT, OTHER), PUBLIC)


def test_refuses_every_edited_byte_of_a_receipt():
    signed = sign(RECEIPT, KEY)
    for index in range(len(signed.payload)):
        payload = bytearray(signed.payload)
        payload[index] ^= 1
        with pytest.raises(ReceiptRejected, match=r"^RECEIPT_INVALID"):
            verify_receipt(Signed(bytes(payload), signed.signature), PUBLIC)


def test_refuses_a_release_presented_as_a_receipt():
    with pytest.raises(ReceiptRejected):
        verify_receipt(sign(RELEASE, KEY), PUBLIC)


def test_refuses_to_sign_a_field_that_does_not_fit():
    with pytest.raises(CanonicalError, match="staleness"):
        sign(replace(RECEIPT, staleness=-1), KEY)


def test_membership_reads_back():
    member = Membership.of("demo", "client-7", OTHER.public_key().public_bytes_raw(), "client")
    read = verify_membership(sign_membership(member, KEY), PUBLIC)
    assert read == member
    assert read.public_key() == OTHER.public_key().public_bytes_raw()


def test_membership_refuses_another_issuer_and_any_changed_byte():
    member = Membership.of("demo", "client-7", PUBLIC, "client")
    with pytest.raises(EnvelopeRejected, match=r"^ENV_MEMBERSHIP:"):
        verify_membership(sign_membership(member, OTHER), PUBLIC)
    blob = sign_membership(member, KEY)
    for index in range(len(blob)):
        changed = bytearray(blob)
        changed[index] ^= 1
        with pytest.raises(EnvelopeRejected) as refusal:
            verify_membership(bytes(changed), PUBLIC)
        assert refusal.value.code == Code.ENV_MEMBERSHIP


def test_membership_refuses_a_receipt_in_its_place():
    signed = sign(RECEIPT, KEY)
    with pytest.raises(EnvelopeRejected):
        verify_membership(signed.signature + signed.payload, PUBLIC)
