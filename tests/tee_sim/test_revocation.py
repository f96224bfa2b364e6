"""Certificates held against their issuers' revocation lists, through the whole appraisal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected
from fl_server.intake.continued import appraise_kept
from tee_sim.appraisal import TrustPolicy
from tee_sim.evidence import Evidence
from tee_sim.explanation import Finding, Outcome, explain
from tee_sim.node_config import NodeConfig
from tee_sim.quotes.revocation import MAX_LIST_BYTES, RevocationLists
from tee_sim.quotes.verifiers import HardwareVerifier, hardware_verifiers, read_quote
from tee_sim.trust_file import load_trust, write_trust
from tests.support.enclave import EPOCH
from tests.support.quotes import (
    RECORDED_AT,
    IntelMaker,
    SnpMaker,
    Vendor,
    no_next_update,
    recorded,
    recorded_snp_chain,
)
from tests.tee_sim.test_evidence import Host
from tests.tee_sim.test_hardware_evidence import NONCE, VENDOR, Machine

ROOT, MIDDLE = VENDOR.revocations("root", 1), VENDOR.revocations("middle", 2)
# As AMD does it: the intermediate signs no lists.
AMD = Vendor(middle_may_list=False)
PLATFORMS = ("intel-sgx", "intel-tdx", "amd-sev-snp")


@pytest.fixture
def machine() -> Machine:
    return Machine()


def lists(*revoked: x509.CertificateRevocationList, **kept: bool) -> dict[str, RevocationLists]:
    return dict.fromkeys(PLATFORMS, RevocationLists(revoked, **kept))


def chain(evidence: bytes) -> list[int]:
    decoded = Evidence.decode(evidence)
    return [each.serial_number for each in read_quote(decoded.quote, decoded.chain).certificates]


def refusal(machine: Machine, evidence: bytes, *revoked: x509.CertificateRevocationList) -> str:
    return machine.refusal(evidence, revocation_lists=lists(*revoked))


def accepted(machine: Machine, evidence: bytes, *revoked: x509.CertificateRevocationList) -> bool:
    trust = machine.trust(evidence, revocation_lists=lists(*revoked))
    return trust.appraise(evidence, NONCE, 0, machine.clock).epoch == EPOCH


def test_accepts_certificates_that_no_list_names(machine: Machine) -> None:
    for evidence in (machine.intel(4, "sgx"), machine.intel(), machine.snp()):
        assert accepted(machine, evidence, ROOT, MIDDLE)


def test_refuses_a_revoked_leaf(machine: Machine) -> None:
    for evidence in (machine.intel(), machine.snp()):
        leaf, _, _ = chain(evidence)
        revoked = VENDOR.revocations("middle", 7, leaf)
        assert refusal(machine, evidence, ROOT, revoked) == Code.EVIDENCE_REVOKED
        # Its issuer's second list counts, too.
        assert refusal(machine, evidence, ROOT, MIDDLE, revoked) == Code.EVIDENCE_REVOKED


@pytest.mark.parametrize("place", [1, 2], ids=["intermediate", "root"])
def test_refuses_a_revoked_authority(machine: Machine, place: int) -> None:
    for evidence in (machine.intel(), machine.snp()):
        revoked = VENDOR.revocations("root", chain(evidence)[place])
        assert refusal(machine, evidence, revoked, MIDDLE) == Code.EVIDENCE_REVOKED


def test_a_serial_number_counts_for_its_issuer_only(machine: Machine) -> None:
    evidence = machine.intel()
    leaf, middle, _ = chain(evidence)
    by_root, by_middle = VENDOR.revocations("root", leaf), VENDOR.revocations("middle", middle)
    assert accepted(machine, evidence, by_root, by_middle)


def test_ignores_lists_of_other_issuers(machine: Machine) -> None:
    evidence = machine.intel()
    other = VENDOR.revocations("other", *chain(evidence), days=(-9, -8), signer=AMD.root_key)
    assert accepted(machine, evidence, other, ROOT, MIDDLE)


@pytest.mark.parametrize("given", [(), (ROOT,), (MIDDLE,)], ids=["none", "root", "middle"])
def test_refuses_a_chain_without_its_issuers_list(
    machine: Machine, given: tuple[x509.CertificateRevocationList, ...]
) -> None:
    for evidence in (machine.intel(), machine.snp()):
        assert refusal(machine, evidence, *given) == Code.EVIDENCE_REVOCATION_LIST


def test_asks_no_list_of_an_issuer_that_may_sign_none(machine: Machine) -> None:
    evidence = machine.snp(vendor=AMD)
    own = {"amd-sev-snp": HardwareVerifier("amd-sev-snp", AMD.root_keys)}
    by_root, revoked = AMD.revocations("root"), AMD.revocations("root", AMD.middle.serial_number)
    trust = machine.trust(evidence, verifiers=own, revocation_lists=lists(by_root))
    assert trust.appraise(evidence, NONCE, 0, machine.clock).epoch == EPOCH
    for given, code in (
        ((), Code.EVIDENCE_REVOCATION_LIST),
        ((revoked,), Code.EVIDENCE_REVOKED),
        ((by_root, AMD.revocations("middle")), Code.EVIDENCE_REVOCATION_LIST),
    ):
        changes = {"verifiers": own, "revocation_lists": lists(*given)}
        assert machine.refusal(evidence, **changes) == code


def test_refuses_a_list_that_its_issuer_did_not_sign(machine: Machine) -> None:
    evidence = machine.intel()
    for forged in (
        (ROOT, VENDOR.revocations("middle", signer=VENDOR.root_key)),
        (VENDOR.revocations("root", signer=AMD.root_key), MIDDLE),
        (ROOT, MIDDLE, AMD.revocations("middle", *chain(evidence))),
    ):
        assert refusal(machine, evidence, *forged) == Code.EVIDENCE_REVOCATION_LIST


@pytest.mark.parametrize("days", [(1, 30), (-30, -1)], ids=["future", "past"])
@pytest.mark.parametrize("issuer", ["root", "middle"])
def test_refuses_a_list_out_of_date(machine: Machine, issuer: str, days: tuple[int, int]) -> None:
    old, other = VENDOR.revocations(issuer, days=days), {"root": MIDDLE, "middle": ROOT}[issuer]
    for evidence in (machine.intel(), machine.snp()):
        assert refusal(machine, evidence, other, old) == Code.EVIDENCE_EXPIRED


def test_reads_lists_that_are_signed_as_amd_signs_them() -> None:
    vendor = Vendor(root_key=rsa.generate_private_key(65_537, 2048))
    signed = (vendor.middle, vendor.root)
    current = vendor.revocations("root", 5)
    assert RevocationLists((current,)).check(signed, RECORDED_AT) == (current,)
    with pytest.raises(EvidenceRejected) as caught:
        revoked = vendor.revocations("root", vendor.middle.serial_number)
        RevocationLists((revoked,)).check(signed, RECORDED_AT)
    assert caught.value.code == Code.EVIDENCE_REVOKED


def test_asks_nothing_about_a_platform_without_lists(machine: Machine) -> None:
    evidence = machine.intel()
    for_amd = {"amd-sev-snp": RevocationLists(())}
    trust = machine.trust(evidence, revocation_lists=for_amd)
    assert trust.appraise(evidence, NONCE, 0, machine.clock).epoch == EPOCH


def test_refuses_a_simulated_platform_when_lists_are_demanded(tmp_path: Path) -> None:
    host = Host(tmp_path)
    trust = replace(host.trust, revocation_lists={"simulated": RevocationLists(())})
    with pytest.raises(EvidenceRejected) as caught:
        trust.appraise(host.evidence(), NONCE, 0, host.clock)
    assert caught.value.code == Code.EVIDENCE_REVOCATION_LIST
    assert explain(host.evidence(), trust, host.clock.now()).code == caught.value.code


def test_judges_kept_evidence_by_lists_of_any_date(machine: Machine) -> None:
    evidence = machine.intel()
    leaf, _, _ = chain(evidence)
    newer = VENDOR.revocations("root", days=(40, 70))
    older = VENDOR.revocations("middle", days=(-70, -40))
    trust = machine.trust(evidence, revocation_lists=lists(newer, older))
    assert appraise_kept(evidence, trust, EPOCH).epoch == EPOCH
    since = lists(newer, VENDOR.revocations("middle", leaf, days=(40, 70)))
    with pytest.raises(EvidenceRejected) as caught:
        appraise_kept(evidence, replace(trust, revocation_lists=since), EPOCH)
    assert caught.value.code == Code.EVIDENCE_REVOKED


def intels_own(kind: str) -> tuple[x509.CertificateRevocationList, ...]:
    members = json.loads(recorded(f"{kind}_coll.json"))
    return tuple(
        x509.load_der_x509_crl(bytes.fromhex(members[name])) for name in ("root_ca_crl", "pck_crl")
    )


def explained(
    data: bytes, now: float, *given: x509.CertificateRevocationList, beside: tuple[str, ...] = ()
) -> Finding:
    trust = TrustPolicy(verifiers=hardware_verifiers(), revocation_lists=lists(*given))
    findings = explain(data, trust, now, beside).findings
    return next(each for each in findings if each.name == "revocation")


@pytest.mark.parametrize(("kind", "other"), [("sgx", "tdx"), ("tdx", "sgx")])
def test_holds_recorded_quotes_against_intels_own_lists(kind: str, other: str) -> None:
    quote, (root, pck), (_, foreign) = (
        recorded(f"{kind}_quote"),
        intels_own(kind),
        intels_own(other),
    )
    finding = explained(quote, RECORDED_AT, root, foreign, pck)
    assert finding.outcome is Outcome.OK
    assert "CN=Intel SGX Root CA" in finding.detail and "2025-06-19" in finding.detail
    assert finding.detail.endswith("ignored: 1")
    later = explained(quote, RECORDED_AT + 60 * 86_400, root, pck)
    assert later.code == Code.EVIDENCE_EXPIRED
    assert explained(quote, RECORDED_AT, root, foreign).code == Code.EVIDENCE_REVOCATION_LIST


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_asks_of_a_recorded_report_the_list_of_its_root_only() -> None:
    report, beside = recorded("attestation.bin"), recorded_snp_chain()
    finding = explained(report, RECORDED_AT, beside=beside)
    assert finding.code == Code.EVIDENCE_REVOCATION_LIST
    assert "ARK-Milan" in finding.detail
    root = x509.load_pem_x509_certificate(beside[2].encode())
    forged = VENDOR.revocations(root.subject, signer=VENDOR.root_key)
    assert "not signed" in explained(report, RECORDED_AT, forged, beside=beside).detail


def test_explains_what_was_not_looked_at() -> None:
    report, beside = SnpMaker(VENDOR).make()
    assert explained(report, RECORDED_AT, ROOT, MIDDLE).outcome is Outcome.NOT_CHECKED
    assert explained(report, RECORDED_AT, ROOT, MIDDLE, beside=beside).outcome is Outcome.OK
    findings = explain(IntelMaker(VENDOR).make(), TrustPolicy(), RECORDED_AT).findings
    names = [each.name for each in findings]
    assert names.index("revocation") == names.index("validity") + 1
    assert findings[names.index("revocation")].outcome is Outcome.NOT_CHECKED


def test_explains_evidence_with_the_code_of_appraisal(machine: Machine) -> None:
    evidence = machine.intel()
    leaf, _, _ = chain(evidence)
    for middle in (VENDOR.revocations("middle", leaf), VENDOR.revocations("middle", days=(-9, -8))):
        given = lists(ROOT, middle)
        code = machine.refusal(evidence, revocation_lists=given)
        trust = machine.trust(evidence, revocation_lists=given)
        codes = {each.name: each.code for each in explain(evidence, trust, RECORDED_AT).findings}
        assert codes["revocation"] == code


TEXT = MIDDLE.public_bytes(Encoding.PEM).decode()


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def named(*names: str) -> str:
    return f"[revocation_lists]\namd-sev-snp = {json.dumps(names)}\n"


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_trust_file_names_lists_beside_it(tmp_path: Path, encoding: Encoding) -> None:
    saved(tmp_path / "ark.crl", ROOT.public_bytes(encoding))
    path = saved(tmp_path / "trust.toml", named("ark.crl", str(tmp_path / "ark.crl")).encode())
    trust = load_trust(path)
    assert trust.revocation_lists == {"amd-sev-snp": RevocationLists((ROOT, ROOT))}
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    write_trust(copy / "trust.toml", trust)
    assert load_trust(copy / "trust.toml") == trust


DELTA = VENDOR.revocations("root", critical=x509.DeltaCRLIndicator(1))
INDIRECT = VENDOR.revocations(
    "root", 5, critical_entry=x509.CertificateIssuer([x509.DirectoryName(AMD.root.subject)])
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "parsing"),
        (b"-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n", "parsing"),
        (ROOT.public_bytes(Encoding.DER) + b"\0", "parsing"),
        (VENDOR.root.public_bytes(Encoding.PEM), "PEM"),
        (ROOT.public_bytes(Encoding.PEM) + MIDDLE.public_bytes(Encoding.PEM), "one revocation"),
        (ROOT.public_bytes(Encoding.PEM) + bytes(MAX_LIST_BYTES), "at most 262144 bytes"),
        (DELTA.public_bytes(Encoding.DER), "CN=root has a critical extension"),
        (INDIRECT.public_bytes(Encoding.DER), "CN=root has a critical extension"),
        (no_next_update(ROOT), "CN=root has no nextUpdate"),
    ],
)
def test_refuses_a_list_that_cannot_be_used(tmp_path: Path, content: bytes, reason: str) -> None:
    saved(tmp_path / "bad.crl", content)
    path = saved(tmp_path / "trust.toml", named("bad.crl").encode())
    with pytest.raises(ConfigInvalid, match=reason):
        load_trust(path)


def test_refuses_a_list_that_is_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path / "trust.toml", named("gone.crl").encode())
    with pytest.raises(ConfigInvalid, match=r"gone\.crl"):
        load_trust(path)


@pytest.mark.parametrize(
    "text",
    [
        "revocation_lists = ['a.crl']",
        "[revocation_lists]\namd-sev-snp = 'a.crl'",
        "[revocation_lists]\namd-sev-snp = [1]",
        "[revocation_lists]\nsimulated = []",
        named(*[TEXT] * 9),
    ],
)
def test_refuses_revocation_lists_of_another_form(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigInvalid, match="revocation_lists is not"):
        load_trust(saved(tmp_path / "trust.toml", text.encode()))


def test_a_bundle_names_lists_beside_it(tmp_path: Path) -> None:
    listed = {"intel-tdx": ["root.crl", TEXT]}
    path = tmp_path / "bundle.json"
    NodeConfig("host:1", "", "demo", "identity", revocation_lists=listed).save(path)
    bundle = NodeConfig.load(path)
    with pytest.raises(ConfigInvalid, match=r"root\.crl"):
        bundle.trust_policy()
    saved(tmp_path / "root.crl", ROOT.public_bytes(Encoding.DER))
    expected = {"intel-tdx": RevocationLists((ROOT, MIDDLE))}
    assert bundle.trust_policy().revocation_lists == expected
    saved(tmp_path / "root.crl", DELTA.public_bytes(Encoding.DER))
    with pytest.raises(ConfigInvalid, match="critical extension"):
        bundle.trust_policy()


@pytest.mark.parametrize("value", [["root.crl"], {"simulated": []}, {"intel-tdx": "root.crl"}])
def test_a_bundle_with_lists_of_another_form_is_refused(tmp_path: Path, value: object) -> None:
    bundle = NodeConfig("host:1", "", "demo", "identity", revocation_lists=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigInvalid, match="revocation_lists"):
        bundle.trust_policy()
    bundle.save(tmp_path / "bundle.json")
    with pytest.raises(ConfigInvalid, match="revocation_lists"):
        NodeConfig.load(tmp_path / "bundle.json")
