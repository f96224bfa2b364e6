"""What the library says of Intel's collateral, word for word, and the code that each gets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.quotes.collateral import TcbStatus, tcb_status
from tee_sim.quotes.verifiers import read_quote
from tests.support.collateral import CollateralMaker
from tests.support.quotes import RECORDED_AT, IntelMaker, Vendor

VENDOR = Vendor(curve=ec.SECP256R1())
QUOTE = IntelMaker(VENDOR, 3, "sgx").make()
LEAF, MIDDLE, ROOT = (each.serial_number for each in read_quote(QUOTE, ()).certificates)


@pytest.fixture(autouse=True)
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library pin the tests' root in place of Intel's."""
    if not os.environ.get("CI"):
        pytest.importorskip("dcap_qvl")
    import dcap_qvl

    root = VENDOR.root.public_bytes(Encoding.DER)
    verify: Callable[..., object] = dcap_qvl.verify_with_root_ca
    monkeypatch.setattr(dcap_qvl, "verify", lambda quote, read, now: verify(quote, read, root, now))


def refusal(collateral: str, now: float = RECORDED_AT) -> EvidenceRejected:
    with pytest.raises(EvidenceRejected) as caught:
        tcb_status(QUOTE, collateral, now)
    return caught.value


def test_accepts_a_platform_that_nothing_speaks_against() -> None:
    others = CollateralMaker(VENDOR, by_root=(1, LEAF), by_middle=(2, MIDDLE)).make()
    assert tcb_status(QUOTE, others, RECORDED_AT) == TcbStatus("UpToDate", ())


@pytest.mark.parametrize(
    "lists",
    [{"by_middle": (LEAF,)}, {"by_root": (MIDDLE,)}, {"by_root": (ROOT,)}],
    ids=["leaf", "intermediate", "root"],
)
def test_refuses_a_certificate_that_the_collateral_revokes(lists: dict[str, tuple[int]]) -> None:
    error = refusal(CollateralMaker(VENDOR, **lists).make())
    assert error.code == Code.EVIDENCE_REVOKED
    assert "CertRevoked" in error.sentence


def test_refuses_a_platform_whose_tcb_intel_has_revoked() -> None:
    error = refusal(CollateralMaker(VENDOR, tcb_status="Revoked").make())
    assert error.code == Code.EVIDENCE_TCB_STATUS
    assert "TCB status is invalid: Revoked" in error.sentence


@pytest.mark.parametrize("days", [-90, 29, 90])
def test_refuses_collateral_of_another_time(days: int) -> None:
    error = refusal(CollateralMaker(VENDOR).make(), RECORDED_AT + days * 86_400)
    assert error.code == Code.EVIDENCE_EXPIRED


def test_a_status_nobody_knows_is_no_revocation() -> None:
    error = refusal(CollateralMaker(VENDOR, tcb_status="Nonsense").make())
    assert "Revoked" in error.sentence
    assert error.code == Code.EVIDENCE_CHAIN


def test_a_list_that_its_issuer_did_not_sign_is_no_revocation() -> None:
    members = json.loads(CollateralMaker(VENDOR).make())
    forged = VENDOR.revocations("middle", LEAF, signer=VENDOR.root_key)
    members["pck_crl"] = forged.public_bytes(Encoding.DER).hex()
    assert refusal(json.dumps(members)).code == Code.EVIDENCE_CHAIN
