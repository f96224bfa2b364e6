"""Quotes recorded on real hardware: their signatures hold, and every one of their bytes counts."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import pytest

from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected
from tee_sim.appraisal import TrustPolicy
from tee_sim.explanation import Explanation, explain
from tee_sim.quotes.chains import check_validity
from tee_sim.quotes.facts import Facts
from tee_sim.quotes.verifiers import ROOT_KEYS, hardware_verifiers, read_quote
from tests.support.quotes import QE_SIGNERS, RECORDED_AT, Vendor, recorded, recorded_snp_chain

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
REFUSALS = {Code.EVIDENCE_MALFORMED, Code.EVIDENCE_CHAIN}


@dataclass(frozen=True)
class Recording:
    """A quote without its padding and the certificates that come beside it."""

    platform: str
    data: bytes
    chain: tuple[str, ...] = ()

    def verify(self, data: bytes, chain: tuple[str, ...] | None = None) -> Facts:
        quote = read_quote(data, self.chain if chain is None else chain)
        quote.authenticate(ROOT_KEYS[self.platform])
        check_validity(quote.certificates, RECORDED_AT)
        return quote.facts()

    def refusal(self, data: bytes, chain: tuple[str, ...] | None = None) -> str:
        try:
            self.verify(data, chain)
        except EvidenceRejected as error:
            return error.code
        return "accepted"


@pytest.fixture(scope="module", params=["intel-sgx", "intel-tdx", "amd-sev-snp"])
def recording(request: pytest.FixtureRequest) -> Recording:
    if request.param == "intel-sgx":
        return Recording(request.param, recorded("sgx_quote"))
    if request.param == "intel-tdx":
        # The driver handed out a buffer with zeros behind the quote; the NUL before them is its.
        return Recording(request.param, recorded("tdx_quote").rstrip(b"\0") + b"\0")
    return Recording(request.param, recorded("attestation.bin"), recorded_snp_chain())


def test_accepts_the_signatures_of_a_recorded_quote(recording: Recording) -> None:
    assert recording.verify(recording.data).platform == recording.platform


def test_reads_what_the_hardware_stated() -> None:
    sgx = read_quote(recorded("sgx_quote"), ()).facts()
    tdx = read_quote(recorded("tdx_quote"), (), padded=True).facts()
    snp = read_quote(recorded("attestation.bin"), recorded_snp_chain()).facts()
    assert bytes.fromhex(sgx.report_data).rstrip(b"\0") == b"Hello, world!"
    assert sgx.measurement.startswith("33d8736d") and not sgx.debug
    assert sgx.code_signers == (sgx.registers["mr_signer"],) and not snp.code_signers
    assert sgx.tcb["pce_svn"] == 13 and sgx.tcb["qe_svn"] == 10
    assert tdx.registers["mr_td"].startswith("91eb2b44") and not tdx.debug
    assert tdx.registers["td_attributes"] == "0000000010000000" and not tdx.unsafe_attributes
    assert tdx.security_version == tdx.tcb["tdx_svn_01"] == 6
    assert snp.measurement.startswith("b07af962") and snp.debug
    assert snp.tcb == {"bootloader": 2, "tee": 0, "snp": 5, "microcode": 68}


def test_every_byte_of_a_recorded_quote_counts(recording: Recording) -> None:
    survivors = []
    for position in range(len(recording.data)):
        damaged = bytearray(recording.data)
        damaged[position] ^= 1 << position % 8
        if recording.refusal(bytes(damaged)) not in REFUSALS:
            survivors.append(position)
    assert survivors == []


def test_every_byte_of_the_recorded_certificates_counts() -> None:
    recording = Recording("amd-sev-snp", recorded("attestation.bin"), recorded_snp_chain())
    survivors = []
    for place, pem in enumerate(recording.chain):
        for position in range(len(pem)):
            damaged = bytearray(pem.encode())
            damaged[position] ^= 1 << position % 7  # stays ASCII
            chain = [*recording.chain]
            chain[place] = damaged.decode()
            if recording.refusal(recording.data, tuple(chain)) not in REFUSALS:
                survivors.append((place, position))
    assert survivors == []


def test_refuses_another_spelling_of_the_recorded_chain() -> None:
    recording = Recording("amd-sev-snp", recorded("attestation.bin"), recorded_snp_chain())
    vcek, ask, ark = recording.chain
    for chain in ((vcek + ask + ark,), (vcek, ask + ark), (vcek, ask, ark, ""), (vcek, ask)):
        assert recording.refusal(recording.data, chain) == Code.EVIDENCE_MALFORMED
    for chain in ((ask, vcek, ark), (vcek, ark, ask), (vcek, ark, ark)):
        assert recording.refusal(recording.data, chain) == Code.EVIDENCE_CHAIN


def test_refuses_every_truncation(recording: Recording) -> None:
    codes = {recording.refusal(recording.data[:length]) for length in range(len(recording.data))}
    assert codes == {Code.EVIDENCE_MALFORMED}


@pytest.mark.parametrize("tail", [b"\0", b"\n", b"x" * 64, b"\0" * (1 << 20)])
def test_refuses_trailing_bytes(recording: Recording, tail: bytes) -> None:
    assert recording.refusal(recording.data + tail) == Code.EVIDENCE_MALFORMED


def test_a_file_may_end_with_the_zeros_of_the_drivers_buffer_only() -> None:
    data = recorded("tdx_quote")
    assert read_quote(data, (), padded=True).facts().platform == "intel-tdx"
    for spoilt in (data[:-1] + b"\1", data + bytes(10 << 10)):
        with pytest.raises(EvidenceRejected) as caught:
            read_quote(spoilt, (), padded=True)
        assert caught.value.code == Code.EVIDENCE_MALFORMED


def test_refuses_a_root_nobody_pinned(recording: Recording) -> None:
    quote = read_quote(recording.data, recording.chain)
    with pytest.raises(EvidenceRejected) as caught:
        quote.authenticate(Vendor().root_keys)
    assert caught.value.code == Code.EVIDENCE_CHAIN


@pytest.mark.parametrize("now", [0.0, 1_500_000_000.0, 2_500_000_000.0])
def test_refuses_recorded_certificates_out_of_date(recording: Recording, now: float) -> None:
    quote = read_quote(recording.data, recording.chain)
    with pytest.raises(EvidenceRejected) as caught:
        check_validity(quote.certificates, now)
    assert caught.value.code == Code.EVIDENCE_EXPIRED


def test_the_debug_report_of_amd_is_genuine_and_refused_by_policy() -> None:
    data, chain = recorded("attestation.bin"), recorded_snp_chain()
    measurement = read_quote(data, chain).facts().measurement
    trust = TrustPolicy(
        roots_of_trust=("amd-sev-snp",),
        measurements=(measurement,),
        verifiers=hardware_verifiers(),
    )
    explanation = explain(data, trust, RECORDED_AT, chain)
    assert [finding.name for finding in explanation.findings if finding.code] == ["debug off"]
    assert explanation.code == Code.EVIDENCE_DEBUG


def judged(kind: str, collateral: str, now: float = RECORDED_AT) -> Explanation:
    """Explain a recorded quote under a policy that demands an up-to-date platform."""
    if not os.environ.get("CI"):
        pytest.importorskip("dcap_qvl")
    data = recorded(f"{kind}_quote")
    facts = read_quote(data, (), padded=True).facts()
    trust = TrustPolicy(
        roots_of_trust=(facts.platform,),
        measurements=(facts.measurement,),
        verifiers=hardware_verifiers(),
        tcb_statuses=("UpToDate",),
    )
    return explain(data, trust, now, collateral=collateral)


def test_accepts_a_platform_that_intel_calls_up_to_date() -> None:
    explanation = judged("tdx", recorded("tdx_coll.json").decode())
    assert explanation.accepted and explanation.stated.tcb_status == "UpToDate"


def test_refuses_a_platform_that_needs_hardening() -> None:
    explanation = judged("sgx", recorded("sgx_coll.json").decode())
    assert explanation.stated.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert explanation.code == Code.EVIDENCE_TCB_STATUS


def test_refuses_a_platform_nobody_judged_when_a_status_is_demanded() -> None:
    assert judged("tdx", "").code == Code.EVIDENCE_TCB_STATUS


@pytest.mark.parametrize("now", [1_700_000_000.0, 1_760_000_000.0, 1_800_000_000.0])
def test_refuses_collateral_of_another_time(now: float) -> None:
    explanation = judged("tdx", recorded("tdx_coll.json").decode(), now)
    assert {f.name: f.code for f in explanation.findings}["collateral"] == Code.EVIDENCE_EXPIRED


def test_refuses_collateral_of_another_platform() -> None:
    explanation = judged("tdx", recorded("sgx_coll.json").decode())
    assert {f.name: f.code for f in explanation.findings}["collateral"] == Code.EVIDENCE_CHAIN


def test_says_when_collateral_is_unreadable() -> None:
    with pytest.raises(ConfigInvalid):
        judged("tdx", "{}")


@pytest.mark.parametrize(("kind", "collateral"), [("sgx", "sgx_coll"), ("tdx", "tdx_coll")])
def test_quoting_enclaves_are_those_intel_signed_for(kind: str, collateral: str) -> None:
    identity = json.loads(json.loads(recorded(f"{collateral}.json"))["qe_identity"])
    assert bytes.fromhex(identity["mrsigner"]) == QE_SIGNERS[kind]
    assert identity["isvprodid"] == {"sgx": 1, "tdx": 2}[kind]
