"""What the enclave remembers, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.chain import Link, first_fault
from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.receipts import (
    GENESIS,
    Opening,
    Receipt,
    Release,
    record_digest,
    verify_head,
    verify_record,
)
from fl_protocol.signatures import Signed
from strategies.update import digest_of
from tee_sim.enclave.ledger import ReceiptLedger
from tests.support.enclave import INITIAL, Lab

OPENING = Opening(
    v=1,
    run_id="r",
    version=0,
    model_digest="2" * 64,
    manifest_digest="3" * 64,
    continues=GENESIS,
    epoch=0,
    seq=0,
    prev=GENESIS,
    iat=100,
    policy_digest="4" * 64,
)
RECEIPT = Receipt(
    v=1,
    federation="f",
    run_id="r",
    client_id="a",
    update_id="u1",
    body_digest="1" * 64,
    base_version=0,
    outcome="accepted",
    staleness=0,
    version=0,
    epoch=1,
    seq=0,
    prev=GENESIS,
    iat=100,
    trace_id="5" * 32,
)
RELEASE = Release(
    v=1,
    run_id="r",
    version=1,
    model_digest="2" * 64,
    manifest_digest="3" * 64,
    updates_digest="6" * 64,
    num_updates=2,
    num_clients=2,
    epsilon="none",
    epoch=1,
    seq=0,
    prev=GENESIS,
    iat=100,
    policy_digest="4" * 64,
)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def ledger(key: Ed25519PrivateKey) -> ReceiptLedger:
    return ReceiptLedger(key, epoch=4)


def fault_of(ledger: ReceiptLedger, records: list[Signed], key: Ed25519PrivateKey) -> object:
    public = key.public_key().public_bytes_raw()
    heads = {4: verify_head(ledger.head(200.0), public)}
    return first_fault([Link.of(signed) for signed in records], {4: public}, heads)


def test_everything_signed_continues_one_chain(
    ledger: ReceiptLedger, key: Ed25519PrivateKey
) -> None:
    records = [
        ledger.open(OPENING),
        ledger.accept(RECEIPT, 500),
        ledger.refuse(replace(RECEIPT, update_id="u2", outcome="NONFINITE")),
        ledger.accept(replace(RECEIPT, update_id="u2"), 500),
        ledger.release(RELEASE),
    ]
    ledger.handed_out(1)
    assert fault_of(ledger, records, key) is None
    assert ledger.since(0, 100) == records
    assert ledger.since(2, 2) == records[2:4]
    assert ledger.since(5, 100) == []


def test_a_release_and_what_follows_it_are_told_once_it_was_handed_out(
    ledger: ReceiptLedger, key: Ed25519PrivateKey
) -> None:
    records = [ledger.open(OPENING), ledger.release(RELEASE)]
    records += [ledger.refuse(replace(RECEIPT, update_id="u2", outcome="NONFINITE"))]
    records += [ledger.release(replace(RELEASE, version=2)), ledger.refuse(RECEIPT)]
    for handed_out, told in [(0, 1), (1, 3), (2, 5)]:
        ledger.handed_out(handed_out)
        assert ledger.withholds is (told < 5)
        assert ledger.since(0, 100) == records[:told]
        assert ledger.since(told, 100) == []
        assert fault_of(ledger, records[:told], key) is None
        head = verify_head(ledger.head(200.0), key.public_key().public_bytes_raw())
        assert (head.length, head.last) == (told, record_digest(records[told - 1]))


def test_only_the_latest_records_are_kept(ledger: ReceiptLedger, key: Ed25519PrivateKey) -> None:
    for _ in range(8193):
        last = ledger.refuse(RECEIPT)
    (first,) = ledger.since(0, 1)
    assert verify_record(first, key.public_key().public_bytes_raw()).seq == 1
    assert ledger.since(8192, 10) == [last]


def test_a_refused_update_may_be_sent_again(ledger: ReceiptLedger) -> None:
    ledger.refuse(replace(RECEIPT, outcome="OVERLOADED"))
    assert ledger.recall("u1", "1" * 64) is None


def test_unknown_id_has_no_receipt(ledger: ReceiptLedger) -> None:
    assert ledger.recall("u1", "1" * 64) is None


def test_known_id_with_other_body_is_a_mismatch(ledger: ReceiptLedger) -> None:
    signed = ledger.accept(RECEIPT, 500)
    assert ledger.recall("u1", "1" * 64) == signed
    with pytest.raises(EnvelopeRejected) as caught:
        ledger.recall("u1", "9" * 64)
    assert caught.value.code == Code.ENV_REPLAY_MISMATCH


def test_forgets_an_update_only_once_it_has_expired(ledger: ReceiptLedger) -> None:
    ledger.accept(RECEIPT, 500)
    ledger.forget_expired(500)
    assert ledger.recall("u1", "1" * 64) is not None
    ledger.forget_expired(501)
    assert ledger.recall("u1", "1" * 64) is None


def test_opening_a_run_discards_a_buffer_and_keeps_what_was_released(
    ledger: ReceiptLedger,
) -> None:
    ledger.accept(RECEIPT, 500)
    ledger.release(RELEASE)
    ledger.accept(replace(RECEIPT, update_id="u2"), 500)
    ledger.open(OPENING)
    assert ledger.recall("u1", "1" * 64) is not None
    assert ledger.recall("u2", "1" * 64) is None


def test_only_the_latest_releases_are_kept(lab: Lab) -> None:
    digest = digest_of(INITIAL)
    for version in range(66):
        lab.merge_with(0.1, 0.2, base_version=version, base_model_digest=digest)
        digest = lab.release(version + 1)[0].model_digest
    reply = lab.ask({"op": "GET_RELEASE", "run_id": lab.run_id, "version": 2})
    assert (reply["ok"], reply["code"]) == (False, Code.RELEASE_NOT_READY)
    assert "oldest kept is 3" in reply["sentence"]
    assert lab.release(3)[0].version == 3
