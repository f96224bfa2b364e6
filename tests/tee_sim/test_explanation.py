"""Explaining evidence: the same checks as appraisal, each with its answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected
from tee_sim.appraisal import TrustPolicy
from tee_sim.explanation import Explanation, Outcome, explain
from tee_sim.node_config import NodeConfig
from tee_sim.quotes.verifiers import hardware_verifiers
from tee_sim.trust_file import load_trust, write_trust
from tests.support.quotes import RECORDED_AT, IntelMaker, SnpMaker, Vendor
from tests.tee_sim.test_evidence import NONCE, Host


def refused(explanation: Explanation) -> dict[str, str]:
    return {f.name: f.code for f in explanation.findings if f.outcome is Outcome.REFUSED}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_default_trust_refuses_simulated_evidence(host: Host) -> None:
    explanation = explain(host.evidence(), TrustPolicy(), host.clock.now())
    assert explanation.code == Code.EVIDENCE_SIMULATED_REFUSED
    assert refused(explanation)["measurement known"] == Code.EVIDENCE_MEASUREMENT


def test_accepts_what_appraisal_accepts(host: Host) -> None:
    evidence = host.evidence()
    assert host.trust.appraise(evidence, NONCE, 0, host.clock)
    explanation = explain(evidence, host.trust, host.clock.now())
    assert explanation.accepted and not refused(explanation)


@pytest.mark.parametrize(
    ("code", "forged"),
    [
        (Code.EVIDENCE_DEBUG, {"debug": True}),
        (Code.EVIDENCE_MEASUREMENT, {"measurement": "cd" * 48}),
        (Code.EVIDENCE_SECURITY_VERSION, {"security_version": 1}),
        (Code.EVIDENCE_REPORT_DATA, {"epoch": 99}),
        (Code.EVIDENCE_POLICY, {"policy": {"k": 2}}),
        (Code.EVIDENCE_EXPIRED, {"iat": 1}),
    ],
)
def test_names_the_code_that_appraisal_gives(
    host: Host, code: Code, forged: dict[str, object]
) -> None:
    evidence = host.forged(**forged)
    assert host.refusal(evidence) == code
    assert explain(evidence, host.trust, host.clock.now()).code == code


def test_names_each_reason_to_refuse_a_platform_by_its_code() -> None:
    data = IntelMaker(Vendor(), attributes=0).make()
    trust = TrustPolicy(
        min_security_version=4,
        minimum_tcb={"intel-tdx": {"pce_svn": 18}},
        tcb_statuses=("UpToDate",),
    )
    codes = refused(explain(data, trust, RECORDED_AT))
    assert codes["platform trusted"] == Code.EVIDENCE_PLATFORM
    assert codes["signatures"] == Code.EVIDENCE_CHAIN
    assert codes["attributes"] == Code.EVIDENCE_ATTRIBUTES
    assert codes["security version"] == Code.EVIDENCE_SECURITY_VERSION
    assert codes["TCB versions"] == Code.EVIDENCE_TCB_VERSION
    assert codes["TCB status"] == Code.EVIDENCE_TCB_STATUS


def test_a_bare_quote_leaves_its_report_data_to_the_reader() -> None:
    vendor = Vendor()
    data = IntelMaker(vendor, 5, "tdx15").make()
    explanation = explain(data, TrustPolicy(), RECORDED_AT)
    assert "signatures" in refused(explanation)  # under a root that only tests pin
    outcome = {finding.name: finding.outcome for finding in explanation.findings}
    assert outcome["report data"] is Outcome.NOT_CHECKED


def test_a_report_without_certificates_is_read_and_refused() -> None:
    report, chain = SnpMaker(Vendor()).make()
    without, beside = (
        {f.name: f.outcome for f in explain(report, TrustPolicy(), RECORDED_AT, c).findings}
        for c in ((), chain)
    )
    assert without["signatures"] is Outcome.REFUSED
    assert without["validity"] is Outcome.NOT_CHECKED
    assert beside["validity"] is Outcome.OK


@pytest.mark.parametrize("data", [b"", b"{}", b"\3\0\2\0", b"\2\0\0\0" * 296, b"x" * 5000])
def test_says_when_evidence_is_unreadable(data: bytes) -> None:
    with pytest.raises(EvidenceRejected) as caught:
        explain(data, TrustPolicy(), RECORDED_AT)
    assert caught.value.code == Code.EVIDENCE_MALFORMED


def test_reads_a_trust_policy_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "trust.toml"
    path.write_text(
        'roots_of_trust = ["intel-tdx"]\nmeasurements = ["ab"]\n'
        "[minimum_tcb.intel-tdx]\npce_svn = 13\n[guardrails]\nk_min = 5\n"
    )
    trust = load_trust(path)
    assert trust.roots_of_trust == ("intel-tdx",)
    assert trust.minimum_tcb == {"intel-tdx": {"pce_svn": 13}}
    assert trust.guardrails.k_min == 5
    assert replace(trust, verifiers={}) != trust


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    trust = TrustPolicy(
        roots_of_trust=("intel-sgx",),
        measurements=("\U0001d4c2\x7f\\",),
        signers={"intel-sgx": ("ab" * 32,), "amd-sev-snp": ("cd" * 48,)},
        minimum_tcb={"intel-tdx": {"pce_svn": 13}},
        allow_sept_ve=True,
        verifiers=hardware_verifiers(),
    )
    write_trust(tmp_path / "trust.toml", trust)
    assert load_trust(tmp_path / "trust.toml") == trust


def test_a_bundle_demands_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    named = {"signers": {"intel-sgx": ["ab" * 32]}, "allow_sept_ve": True}
    NodeConfig("host:1", "", "demo", "identity", **named).save(path)
    trust = NodeConfig.load(path).trust_policy()
    assert trust.signers == {"intel-sgx": ("ab" * 32,)} and trust.allow_sept_ve
    assert not NodeConfig("host:1", "", "demo", "identity").trust_policy().allow_sept_ve


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("signers", {"intel-sgx": "ab" * 32}),
        ("signers", {"intel-tdx": ["ab" * 32]}),
        ("signers", ["ab" * 32]),
        ("allow_sept_ve", "false"),
    ],
)
def test_a_bundle_with_a_setting_of_another_form_is_refused(setting: str, value: object) -> None:
    bundle = NodeConfig("host:1", "", "demo", "identity", **{setting: value})
    with pytest.raises(ConfigInvalid, match=setting):
        bundle.trust_policy()


@pytest.mark.parametrize(
    "text",
    [
        "roots_of_trust = 'intel-tdx'",
        "allow_debug = 1",
        "allow_sept_ve = 1",
        "signers = ['ab']",
        "[signers]\nintel-sgx = 'ab'",
        "[signers]\nintel-sgx = ['ab']",
        f"[signers]\nintel-tdx = ['{'ab' * 32}']",
        f"[signers]\namd-sev-snp = ['{'AB' * 48}']",
        f"[signers]\namd-sev-snp = ['{'00' * 48}']",
        "min_security_version = true",
        "unknown = 1",
        "tcb_statuses = 'UpToDate'",
        "[guardrails]\nunknown = 1",
        "[guardrails]\nk_min = 'x'",
        "[guardrails]\nk_min = 0",
        "[guardrails]\nmax_epsilon = true",
        "[guardrails]\nmax_share = 1.5",
        "[guardrails]\nmax_leverage = nan",
        "[minimum_tcb.intel-tdx]\npce_svn = '13'",
        "[minimum_tcb.intel_tdx]\npce_svn = 13",
        f"a = {'[' * 5000}",
        "=",
    ],
)
def test_refuses_a_trust_file_that_does_not_fit(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trust.toml"
    path.write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        load_trust(path)
    assert str(path) in caught.value.sentence
