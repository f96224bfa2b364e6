"""Evidence of hardware through the whole appraisal, with quotes under a root made for tests."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import Code, EvidenceRejected
from fl_protocol.encoding import b64url
from fl_protocol.signatures import sign_payload
from tee_sim.appraisal import TrustPolicy
from tee_sim.evidence import DOMAIN, Claims, EnclaveKeys, Evidence, report_data
from tee_sim.policy import Guardrails
from tee_sim.quotes.verifiers import HardwareVerifier, read_quote
from tests.support.clock import SetClock
from tests.support.enclave import EPOCH, flipped, policy_for
from tests.support.quotes import (
    KINDS,
    RECORDED_AT,
    SEPT_VE_DISABLE,
    IntelMaker,
    SnpMaker,
    Vendor,
    recorded,
)

NONCE = bytes(range(32))
VENDOR = Vendor()


class Machine:
    """One enclave on hardware: its keys, its claims, and the quotes that vouch for them."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.clock.time = RECORDED_AT
        self.receipt_key = Ed25519PrivateKey.generate()
        self.keys = EnclaveKeys(bytes(32), self.receipt_key.public_key().public_bytes_raw())
        self.policy = policy_for(Ed25519PrivateKey.generate())
        self.bound = bytes.fromhex(report_data(EPOCH, self.keys, self.policy.digest, NONCE))

    def intel(self, version: int = 4, kind: str = "tdx", **spoilt: Any) -> bytes:
        made = {"vendor": VENDOR, "report_data": self.bound, **spoilt}
        maker = IntelMaker(version=version, kind=kind, **made)
        return self.evidence("intel-sgx" if kind == "sgx" else "intel-tdx", maker.make())

    def snp(self, **spoilt: Any) -> bytes:
        made = {"vendor": VENDOR, "report_data": self.bound, **spoilt}
        report, chain = SnpMaker(**made).make()
        return self.evidence("amd-sev-snp", report, chain)

    def evidence(
        self, platform: str, quote: bytes, chain: tuple[str, ...] = (), **claimed: Any
    ) -> bytes:
        claims = Claims(
            v=1,
            platform=platform,
            nonce=NONCE.hex(),
            debug=False,
            epoch=EPOCH,
            measurement="00" * 48,
            signer_id="00" * 32,
            security_version=2**40,
            policy=self.policy.to_members(),
            report_data="00" * 64,
            hpke_key=b64url(self.keys.hpke),
            receipt_key=b64url(self.keys.receipt),
            isolation={},
            iat=int(RECORDED_AT),
        )
        payload = replace(claims, **claimed).encode()
        signed = sign_payload(DOMAIN, payload, self.receipt_key)
        return Evidence(payload, signed.signature, chain, quote).encode()

    def trust(self, evidence: bytes, **changes: Any) -> TrustPolicy:
        decoded = Evidence.decode(evidence)
        facts = read_quote(decoded.quote, decoded.chain).facts()
        trusted = TrustPolicy(
            roots_of_trust=(facts.platform,),
            measurements=(facts.measurement,),
            min_security_version=3,
            verifiers={facts.platform: HardwareVerifier(facts.platform, VENDOR.root_keys)},
        )
        return replace(trusted, **changes)

    def refusal(self, evidence: bytes, **changes: Any) -> str:
        with pytest.raises(EvidenceRejected) as caught:
            self.trust(evidence, **changes).appraise(evidence, NONCE, 0, self.clock)
        return caught.value.code


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize(("version", "kind"), KINDS)
def test_accepts_every_version_of_intel_quotes(machine: Machine, version: int, kind: str) -> None:
    evidence = machine.intel(version, kind)
    attested = machine.trust(evidence).appraise(evidence, NONCE, EPOCH, machine.clock)
    assert attested.receipt_key == machine.keys.receipt
    assert attested.policy == machine.policy


@pytest.mark.parametrize("version", [2, 3, 5])
def test_accepts_reports_of_sev_snp(machine: Machine, version: int) -> None:
    evidence = machine.snp(version=version)
    attested = machine.trust(evidence).appraise(evidence, NONCE, EPOCH, machine.clock)
    assert attested.measurement == (b"m" * 48).hex()


def test_refuses_hardware_nobody_named(machine: Machine) -> None:
    assert machine.refusal(machine.intel(), roots_of_trust=("simulated",)) == Code.EVIDENCE_PLATFORM
    assert machine.refusal(machine.snp(), roots_of_trust=()) == Code.EVIDENCE_PLATFORM


def test_refuses_a_quote_under_another_platforms_name(machine: Machine) -> None:
    quote = Evidence.decode(machine.intel(4, "sgx")).quote
    evidence = machine.evidence("intel-tdx", quote)
    verifier = HardwareVerifier("intel-tdx", VENDOR.root_keys)
    changes = {"roots_of_trust": ("intel-tdx",), "verifiers": {"intel-tdx": verifier}}
    assert machine.refusal(evidence, **changes) == Code.EVIDENCE_MALFORMED


def test_refuses_quotes_under_another_root(machine: Machine) -> None:
    for evidence, platform in ((machine.intel(), "intel-tdx"), (machine.snp(), "amd-sev-snp")):
        other = HardwareVerifier(platform, Vendor().root_keys)
        assert machine.refusal(evidence, verifiers={platform: other}) == Code.EVIDENCE_CHAIN


@pytest.mark.parametrize("days", [-2, 366])
def test_refuses_certificates_out_of_date(machine: Machine, days: int) -> None:
    machine.clock.time += days * 86_400
    assert machine.refusal(machine.intel()) == Code.EVIDENCE_EXPIRED
    assert machine.refusal(machine.snp()) == Code.EVIDENCE_EXPIRED


def test_refuses_hardware_that_intels_collateral_does_not_vouch_for(machine: Machine) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("dcap_qvl")
    collateral = recorded("tdx_coll.json").decode()
    judging = HardwareVerifier("intel-tdx", VENDOR.root_keys, collateral)
    verifiers = {"intel-tdx": judging}
    assert machine.refusal(machine.intel(), verifiers=verifiers) == Code.EVIDENCE_CHAIN


def test_refuses_hardware_nobody_judged_when_a_status_is_demanded(machine: Machine) -> None:
    for evidence in (machine.intel(), machine.snp()):
        code = machine.refusal(evidence, tcb_statuses=("UpToDate",))
        assert code == Code.EVIDENCE_TCB_STATUS


def test_refuses_debug_enclaves(machine: Machine) -> None:
    for evidence in (
        machine.intel(3, "sgx", attributes=3),
        machine.intel(4, "tdx", attributes=1),
        machine.intel(5, "tdx15", attributes=0x80),
        machine.snp(policy=0xB0000),
    ):
        assert machine.refusal(evidence) == Code.EVIDENCE_DEBUG


@pytest.mark.parametrize(
    "bit", [bit for bit in range(8, 64) if bit not in {27, 28, 29, 30, 31, 63}]
)
def test_refuses_a_trust_domain_with_a_reserved_attribute(machine: Machine, bit: int) -> None:
    evidence = machine.intel(4, "tdx", attributes=SEPT_VE_DISABLE | 1 << bit)
    assert machine.refusal(evidence) == Code.EVIDENCE_ATTRIBUTES
    assert machine.refusal(evidence, allow_sept_ve=True) == Code.EVIDENCE_ATTRIBUTES


def test_refuses_a_trust_domain_without_sept_ve_disable_unless_allowed(machine: Machine) -> None:
    for kind in ("tdx", "tdx15"):
        evidence = machine.intel(5, kind, attributes=0)
        assert machine.refusal(evidence) == Code.EVIDENCE_ATTRIBUTES
        trust = machine.trust(evidence, allow_sept_ve=True)
        assert trust.appraise(evidence, NONCE, 0, machine.clock).epoch == EPOCH


def test_accepts_features_of_the_processor_in_a_trust_domain(machine: Machine) -> None:
    features = 1 << 27 | 1 << 30 | 1 << 31 | 1 << 63
    evidence = machine.intel(4, "tdx", attributes=SEPT_VE_DISABLE | features)
    assert machine.trust(evidence).appraise(evidence, NONCE, 0, machine.clock).epoch == EPOCH


def test_refuses_enclaves_that_may_be_moved_elsewhere(machine: Machine) -> None:
    for evidence in (
        machine.intel(4, "tdx", attributes=1 << 29),
        machine.intel(5, "tdx15", mr_service_td=b"x" * 48),
        machine.snp(policy=0x70000),
    ):
        assert machine.refusal(evidence) == Code.EVIDENCE_DEBUG


@pytest.mark.parametrize(
    "spoilt",
    [
        {"qe_signer": b"x" * 32},
        {"qe_attributes": 3},
        {"bound": bytes(64)},
        {"mr_signer_seam": b"x" * 48},
    ],
)
def test_refuses_quotes_of_a_strange_quoting_enclave(
    machine: Machine, spoilt: dict[str, Any]
) -> None:
    assert machine.refusal(machine.intel(**spoilt)) == Code.EVIDENCE_CHAIN


@pytest.mark.parametrize(
    "spoilt",
    [
        {"chip_id": b"x" * 64},
        {"certified_microcode": 218},
        {"tcb": bytes([4, 0, 0, 0, 0, 0, 23, 219])},
        {"vmpl": 1},
        {"flags": 1 << 2},
        {"flags": 7 << 2},
    ],
)
def test_refuses_reports_the_vcek_is_not_for(machine: Machine, spoilt: dict[str, Any]) -> None:
    assert machine.refusal(machine.snp(**spoilt)) == Code.EVIDENCE_CHAIN


def test_refuses_sev_snp_without_certificates(machine: Machine) -> None:
    quote = Evidence.decode(machine.snp()).quote
    assert machine.refusal(machine.evidence("amd-sev-snp", quote)) == Code.EVIDENCE_CHAIN


def test_refuses_certificates_beside_an_intel_quote(machine: Machine) -> None:
    quote = Evidence.decode(machine.intel()).quote
    trust = machine.trust(machine.intel())
    evidence = machine.evidence("intel-tdx", quote, ("more",))
    with pytest.raises(EvidenceRejected) as caught:
        trust.appraise(evidence, NONCE, 0, machine.clock)
    assert caught.value.code == Code.EVIDENCE_MALFORMED


def test_refuses_zeros_behind_a_quote_that_travels(machine: Machine) -> None:
    quote = Evidence.decode(machine.intel()).quote
    trust = machine.trust(machine.intel())
    with pytest.raises(EvidenceRejected) as caught:
        trust.appraise(machine.evidence("intel-tdx", quote + b"\0"), NONCE, 0, machine.clock)
    assert caught.value.code == Code.EVIDENCE_MALFORMED


def test_refuses_a_chain_through_something_that_is_no_authority(machine: Machine) -> None:
    """The vendor also issues certificates for signing data; their keys must not make platforms."""
    vendor = Vendor(middle_may_issue=False)
    evidence = machine.intel(vendor=vendor)
    own = {"intel-tdx": HardwareVerifier("intel-tdx", vendor.root_keys)}
    assert machine.refusal(evidence, verifiers=own) == Code.EVIDENCE_CHAIN


def test_refuses_unknown_measurement(machine: Machine) -> None:
    assert machine.refusal(machine.intel(), measurements=()) == Code.EVIDENCE_MEASUREMENT


def test_refuses_code_of_a_signer_nobody_listed(machine: Machine) -> None:
    other = {"intel-sgx": ("ab" * 32,), "amd-sev-snp": ("ab" * 48,)}
    for evidence in (
        machine.intel(4, "sgx"),
        machine.snp(),
        machine.snp(id_key_digest=b"i" * 48, author_key_digest=b"a" * 48),
    ):
        assert machine.refusal(evidence, signers=other) == Code.EVIDENCE_SIGNER
        assert machine.refusal(evidence, signers=dict.fromkeys(other, ())) == Code.EVIDENCE_SIGNER


@pytest.mark.parametrize("signer", ["i", "a"], ids=["ID key", "its author"])
def test_accepts_code_of_a_listed_signer(machine: Machine, signer: str) -> None:
    listed = {"intel-sgx": ((b"s" * 32).hex(),), "amd-sev-snp": ((signer.encode() * 48).hex(),)}
    for evidence in (
        machine.intel(4, "sgx"),
        machine.snp(id_key_digest=b"i" * 48, author_key_digest=b"a" * 48),
        machine.intel(4, "tdx"),
    ):
        trust = machine.trust(evidence, signers=listed)
        assert trust.appraise(evidence, NONCE, 0, machine.clock).epoch == EPOCH


def test_refuses_old_security_version_whatever_the_claims_say(machine: Machine) -> None:
    for evidence in (
        machine.intel(4, "sgx", svn=2),
        machine.intel(4, "tdx", svn=2),
        machine.snp(guest_svn=2),
    ):
        assert machine.refusal(evidence) == Code.EVIDENCE_SECURITY_VERSION


@pytest.mark.parametrize(
    "least", [{"pce_svn": 18}, {"qe_svn": 8}, {"cpu_svn_01": 2}, {"no such part": 0}]
)
def test_refuses_old_parts_of_the_platform(machine: Machine, least: dict[str, int]) -> None:
    minimum = {"intel-tdx": least}
    assert machine.refusal(machine.intel(), minimum_tcb=minimum) == Code.EVIDENCE_TCB_VERSION


def test_accepts_parts_at_their_minimum(machine: Machine) -> None:
    evidence = machine.snp()
    least = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
    trust = machine.trust(evidence, minimum_tcb={"amd-sev-snp": least})
    assert trust.appraise(evidence, NONCE, 0, machine.clock).epoch == EPOCH


def test_refuses_quotes_for_other_keys(machine: Machine) -> None:
    """Another's genuine quote beside one's own keys and one's own signature over them."""
    quote = Evidence.decode(Machine().intel()).quote
    assert machine.refusal(machine.evidence("intel-tdx", quote)) == Code.EVIDENCE_REPORT_DATA


def test_refuses_claims_the_enclave_did_not_sign(machine: Machine) -> None:
    honest = Evidence.decode(machine.intel())
    claims = replace(Claims.decode(honest.payload), isolation={"seccomp": "active"})
    evidence = replace(honest, payload=claims.encode()).encode()
    assert machine.refusal(evidence) == Code.EVIDENCE_CHAIN


def test_refuses_a_weak_policy_of_genuine_hardware(machine: Machine) -> None:
    weak = {"guardrails": Guardrails(k_min=50)}
    assert machine.refusal(machine.intel(), **weak) == Code.EVIDENCE_GUARDRAIL


def test_bytes_of_hardware_evidence_count(machine: Machine) -> None:
    evidence = machine.intel(4, "sgx")
    trust = machine.trust(evidence)
    survivors = []
    for position in range(0, len(evidence), 3):
        try:
            trust.appraise(flipped(evidence, 8 * position + position % 8), NONCE, 0, machine.clock)
        except EvidenceRejected:
            continue
        survivors.append(position)
    assert survivors == []
