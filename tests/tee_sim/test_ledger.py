"""What the enclave remembers, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.receipts import GENESIS, Receipt, Release, verify_chain
from tee_sim.enclave.ledger import ReceiptLedger
from tests.support.enclave import Lab

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
)
RELEASE = Release(
    v=1,
    run_id="r",
    version=1,
    model_digest="2" * 64,
    manifest_digest="3" * 64,
    num_updates=2,
    num_clients=2,
    epoch=1,
    seq=0,
    prev=GENESIS,
    iat=100,
    policy_digest="4" * 64,
)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def test_records_continue_one_chain(key: Ed25519PrivateKey) -> None:
    ledger = ReceiptLedger(key)
    records = [
        ledger.accept(RECEIPT, 500),
        ledger.accept(replace(RECEIPT, update_id="u2"), 500),
        ledger.release(RELEASE),
        ledger.accept(replace(RECEIPT, update_id="u3"), 500),
    ]
    public = key.public_key().public_bytes_raw()
    assert verify_chain(records, public) is None
    assert verify_chain([records[0], records[2]], public) == 1


def test_unknown_id_has_no_receipt(key: Ed25519PrivateKey) -> None:
    assert ReceiptLedger(key).recall("u1", "1" * 64) is None


def test_known_id_with_other_body_is_a_mismatch(key: Ed25519PrivateKey) -> None:
    ledger = ReceiptLedger(key)
    signed = ledger.accept(RECEIPT, 500)
    assert ledger.recall("u1", "1" * 64) == signed
    with pytest.raises(EnvelopeRejected) as caught:
        ledger.recall("u1", "9" * 64)
    assert caught.value.code == Code.ENV_REPLAY_MISMATCH


def test_forgets_an_update_only_once_it_has_expired(key: Ed25519PrivateKey) -> None:
    ledger = ReceiptLedger(key)
    ledger.accept(RECEIPT, 500)
    ledger.forget_expired(500)
    assert ledger.recall("u1", "1" * 64) is not None
    ledger.forget_expired(501)
    assert ledger.recall("u1", "1" * 64) is None


def test_discarding_a_buffer_keeps_what_was_released(key: Ed25519PrivateKey) -> None:
    ledger = ReceiptLedger(key)
    ledger.accept(RECEIPT, 500)
    ledger.release(RELEASE)
    ledger.accept(replace(RECEIPT, update_id="u2"), 500)
    ledger.discard_unreleased()
    assert ledger.recall("u1", "1" * 64) is not None
    assert ledger.recall("u2", "1" * 64) is None


def test_only_the_latest_releases_are_kept(lab: Lab) -> None:
    digest = lab.open_run()["model_digest"]
    for version in range(66):
        lab.merge_with(0.1, 0.2, base_version=version, base_model_digest=digest)
        digest = lab.release(version + 1)[0].model_digest
    reply = lab.ask({"op": "GET_RELEASE", "run_id": lab.run_id, "version": 2})
    assert (reply["ok"], reply["code"]) == (False, Code.RELEASE_NOT_READY)
    assert "oldest kept is 3" in reply["sentence"]
    assert lab.release(3)[0].version == 3
