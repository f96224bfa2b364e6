"""Appraisal: default deny, one code per reason, no byte that does not count."""

from __future__ import annotations

import base64
import datetime
import json
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fl_protocol.codes import Code, EvidenceRejected
from fl_protocol.encoding import b64url
from fl_protocol.ports import SystemRng
from fl_protocol.signatures import sign_payload
from fl_server.intake.continued import appraise_kept
from tee_sim.appraisal import TrustPolicy
from tee_sim.certificates import SimulatedRoot, create_root
from tee_sim.evidence import DOMAIN, LAST_SECOND, Claims, EnclaveKeys, Evidence
from tee_sim.platform import RunningEnclave, SimulatedPlatform
from tee_sim.policy import EnclavePolicy, Guardrails
from tests.support.clock import SetClock
from tests.support.enclave import EPOCH, FEDERATION, flipped, policy_for

MEASUREMENT = "ab" * 48
NONCE = bytes(range(32))


class Host:
    """A simulated platform with one enclave's facts; nothing here needs a process."""

    def __init__(self, folder: Path) -> None:
        self.clock = SetClock()
        self.files: SimulatedRoot = create_root(folder, self.clock)
        self.key = Ed25519PrivateKey.from_private_bytes(self.files.platform_key.read_bytes())
        self.chain = (self.files.platform_chain.read_text(),)
        self.policy: EnclavePolicy = policy_for(Ed25519PrivateKey.generate())
        keys = EnclaveKeys(SystemRng().bytes(32), SystemRng().bytes(32))
        self.enclave = RunningEnclave(EPOCH, MEASUREMENT, keys, self.policy, {}, False)
        self.trust = TrustPolicy(
            roots_of_trust=("simulated",),
            simulated_root_pem=self.files.root.read_text(),
            measurements=(MEASUREMENT,),
            min_security_version=2,
        )

    def evidence(self, nonce: bytes = NONCE, security_version: int = 2, **changes: Any) -> bytes:
        platform = SimulatedPlatform(self.key, self.chain, security_version, self.clock)
        return platform.attest(replace(self.enclave, **changes), nonce)

    def forged(self, **claims: Any) -> bytes:
        """Evidence whose claims contradict each other, under the platform's own signature."""
        honest = Claims.decode(Evidence.decode(self.evidence()).payload)
        payload = replace(honest, **claims).encode()
        return Evidence(
            payload, sign_payload(DOMAIN, payload, self.key).signature, self.chain
        ).encode()

    def refusal(self, evidence: bytes, last_epoch: int = 0, **changes: Any) -> str:
        with pytest.raises(EvidenceRejected) as caught:
            replace(self.trust, **changes).appraise(evidence, NONCE, last_epoch, self.clock)
        return caught.value.code


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("platform"))


@pytest.fixture(autouse=True)
def _fresh_clock(host: Host) -> None:
    host.clock.time = 1_800_000_000.0


def test_accepts_good_evidence_and_returns_the_keys(host: Host) -> None:
    attested = host.trust.appraise(host.evidence(), NONCE, EPOCH, host.clock)
    assert attested.epoch == EPOCH
    assert attested.hpke_key == host.enclave.keys.hpke
    assert attested.receipt_key == host.enclave.keys.receipt
    assert attested.policy == host.policy
    assert attested.policy_digest == host.policy.digest


def test_refuses_simulated_evidence_by_default(host: Host) -> None:
    with pytest.raises(EvidenceRejected) as caught:
        TrustPolicy().appraise(host.evidence(), NONCE, 0, host.clock)
    assert caught.value.code == Code.EVIDENCE_SIMULATED_REFUSED
    assert "roots_of_trust" in caught.value.sentence


def test_refuses_every_measurement_by_default(host: Host) -> None:
    assert host.refusal(host.evidence(), measurements=()) == Code.EVIDENCE_MEASUREMENT


def test_refuses_platform_nobody_named(host: Host) -> None:
    assert host.refusal(host.forged(platform="mainframe")) == Code.EVIDENCE_PLATFORM


def test_refuses_platform_nobody_can_verify(host: Host) -> None:
    code = host.refusal(host.forged(platform="mainframe"), roots_of_trust=("mainframe",))
    assert code == Code.EVIDENCE_PLATFORM


def test_each_question_about_the_platform_has_a_code_of_its_own(host: Host) -> None:
    claims = Claims.decode(Evidence.decode(host.evidence()).payload)
    codes = [check.code for check in host.trust.platform_checks(claims)]
    assert len(codes) == len(set(codes)) > 4


@pytest.mark.parametrize("name", ["", "x" * 65, "Simulated", "simulated\n", "\x1b[2J", "é"])
def test_refuses_a_platform_whose_name_is_none(host: Host, name: str) -> None:
    assert host.refusal(host.forged(platform=name)) == Code.EVIDENCE_MALFORMED


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b" ",
        lambda data: b"[]",
        lambda data: data.replace(b'"chain"', b'"chains"'),
        lambda data: data.replace(b"{", b'{"a":1,', 1),
        lambda data: b'{"chain":["' + b"x" * (17 << 10) + b'"]}',
        lambda data: data.replace(b"CERTIFICATE-----\\n", b"CERTIFICATE-----\\n\\n", 1),
    ],
)
def test_refuses_malformed_evidence(host: Host, damage: Callable[[bytes], bytes]) -> None:
    assert host.refusal(damage(host.evidence())) == Code.EVIDENCE_MALFORMED


@pytest.mark.parametrize("iat", [LAST_SECOND + 1, 10**12, 2**53 - 1])
def test_refuses_a_time_beyond_the_calendar(host: Host, iat: int) -> None:
    assert host.refusal(host.forged(iat=iat)) == Code.EVIDENCE_MALFORMED


@pytest.mark.parametrize(
    ("iat", "code"),
    [
        (0, Code.EVIDENCE_EXPIRED),
        (LAST_SECOND, Code.EVIDENCE_EXPIRED),
        (LAST_SECOND + 1, Code.EVIDENCE_MALFORMED),
    ],
)
def test_refuses_kept_evidence_of_any_other_time(host: Host, iat: int, code: Code) -> None:
    assert appraise_kept(host.evidence(), host.trust, EPOCH).epoch == EPOCH
    with pytest.raises(EvidenceRejected) as caught:
        appraise_kept(host.forged(iat=iat), host.trust, EPOCH)
    assert caught.value.code == code


def test_refuses_certificate_of_another_root(host: Host, tmp_path: Path) -> None:
    other = Host(tmp_path)
    assert host.refusal(other.evidence()) == Code.EVIDENCE_CHAIN


def test_refuses_signature_of_another_key(host: Host) -> None:
    stranger = SimulatedPlatform(Ed25519PrivateKey.generate(), host.chain, 2, host.clock)
    assert host.refusal(stranger.attest(host.enclave, NONCE)) == Code.EVIDENCE_CHAIN


def test_refuses_platform_that_certifies_another(host: Host, tmp_path: Path) -> None:
    """A platform's certificate is no authority: it cannot stand in the middle of a chain."""
    other = Host(tmp_path)
    chain = (*other.chain, *host.chain)
    evidence = SimulatedPlatform(other.key, chain, 2, host.clock).attest(host.enclave, NONCE)
    assert host.refusal(evidence) == Code.EVIDENCE_CHAIN


@pytest.mark.parametrize("years", [-1, 2])
def test_refuses_certificate_out_of_date(host: Host, years: int) -> None:
    evidence = host.evidence()
    host.clock.time += years * 365 * 86_400
    assert host.refusal(evidence) == Code.EVIDENCE_EXPIRED


def test_refuses_evidence_that_is_old(host: Host) -> None:
    evidence = host.evidence()
    host.clock.time += 3600
    assert host.refusal(evidence) == Code.EVIDENCE_EXPIRED


def test_refuses_debug_enclave(host: Host) -> None:
    evidence = host.evidence(debug=True)
    assert host.refusal(evidence) == Code.EVIDENCE_DEBUG
    allowing = replace(host.trust, allow_debug=True)
    assert allowing.appraise(evidence, NONCE, 0, host.clock).epoch == EPOCH


def test_refuses_unknown_measurement(host: Host) -> None:
    assert host.refusal(host.evidence(measurement="cd" * 48)) == Code.EVIDENCE_MEASUREMENT


def test_refuses_old_security_version(host: Host) -> None:
    assert host.refusal(host.evidence(security_version=1)) == Code.EVIDENCE_SECURITY_VERSION


@pytest.mark.parametrize("claim", ["hpke_key", "receipt_key"])
def test_refuses_other_key_beside_the_report(host: Host, claim: str) -> None:
    other = host.forged(**{claim: b64url(SystemRng().bytes(32))})
    assert host.refusal(other) == Code.EVIDENCE_REPORT_DATA


def test_refuses_other_epoch_beside_the_report(host: Host) -> None:
    assert host.refusal(host.forged(epoch=EPOCH + 1)) == Code.EVIDENCE_REPORT_DATA


def test_refuses_other_policy_beside_the_report(host: Host) -> None:
    other = replace(host.policy, k=9).to_members()
    assert host.refusal(host.forged(policy=other)) == Code.EVIDENCE_REPORT_DATA


def test_refuses_evidence_for_another_challenge(host: Host) -> None:
    assert host.refusal(host.evidence(nonce=b"x" * 32)) == Code.EVIDENCE_NONCE


def test_platform_refuses_a_short_challenge(host: Host) -> None:
    with pytest.raises(EvidenceRejected) as caught:
        host.evidence(nonce=b"short")
    assert caught.value.code == Code.EVIDENCE_NONCE


def test_refuses_older_epoch_than_seen(host: Host) -> None:
    assert host.refusal(host.evidence(), last_epoch=EPOCH + 1) == Code.EVIDENCE_EPOCH


def test_refuses_policy_that_is_none(host: Host) -> None:
    assert host.refusal(host.forged(policy={"k": 2})) == Code.EVIDENCE_POLICY


def test_refuses_policy_other_than_agreed(host: Host) -> None:
    assert host.refusal(host.evidence(), policy_digest="0" * 64) == Code.EVIDENCE_POLICY


def test_refuses_policy_of_another_federation(host: Host) -> None:
    assert host.refusal(host.evidence(), federation="banks") == Code.EVIDENCE_POLICY
    own = replace(host.trust, federation=FEDERATION, policy_digest=host.policy.digest)
    assert own.appraise(host.evidence(), NONCE, 0, host.clock).policy == host.policy


@pytest.mark.parametrize(
    "bound",
    [
        {"k_min": 3},
        {"max_staleness": 2},
        {"max_share": 0.5},
        {"max_per_client": 0},
        {"max_leverage": 0.9},
    ],
)
def test_refuses_policy_weaker_than_the_guardrails(host: Host, bound: dict[str, Any]) -> None:
    guardrails = Guardrails(**bound)
    assert host.refusal(host.evidence(), guardrails=guardrails) == Code.EVIDENCE_GUARDRAIL


def test_every_byte_of_evidence_counts(host: Host) -> None:
    evidence = host.evidence()
    survivors = []
    for position in range(len(evidence)):
        bit = 8 * position + position % 8
        try:
            host.trust.appraise(flipped(evidence, bit), NONCE, 0, host.clock)
        except EvidenceRejected:
            continue
        survivors.append(position)
    assert survivors == []


def test_every_claim_is_signed_bit_for_bit(host: Host) -> None:
    decoded = Evidence.decode(host.evidence())
    for bit in range(0, 8 * len(decoded.payload), 5):
        tampered = replace(decoded, payload=flipped(decoded.payload, bit)).encode()
        with pytest.raises(EvidenceRejected):
            host.trust.appraise(tampered, NONCE, 0, host.clock)


def test_evidence_names_the_platform_and_the_isolation(host: Host) -> None:
    evidence = host.evidence(isolation={"seccomp": "active"})
    claims = Claims.decode(Evidence.decode(evidence).payload)
    assert (claims.platform, claims.isolation) == ("simulated", {"seccomp": "active"})
    assert json.loads(evidence)["chain"] == list(host.chain)


def test_root_files_are_their_owners_only(host: Host) -> None:
    for path in (host.files.root, host.files.platform_key, host.files.platform_chain):
        assert path.stat().st_mode & 0o777 == 0o600


def spoilt(host: Host, old: str, new: str, *extensions: x509.UnrecognizedExtension) -> str:
    """PEM of a certificate with bytes of it replaced, given in hexadecimal."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spoilt")])
    now = datetime.datetime.fromtimestamp(host.clock.time, datetime.UTC)
    builder = x509.CertificateBuilder(name, name, host.key.public_key(), 7, now, now)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    der = builder.sign(host.key, None).public_bytes(Encoding.DER)
    assert bytes.fromhex(old) in der
    changed = der.replace(bytes.fromhex(old), bytes.fromhex(new))
    lines = textwrap.fill(base64.b64encode(changed).decode(), 64)
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def unrecognized(oid: str, value: str = "0500") -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), bytes.fromhex(value))


@pytest.mark.parametrize(
    ("old", "new", "extensions"),
    [
        ("a003020102", "a003020106", ()),
        ("300506032b65700321", "300506032b65100321", ()),
        ("2a030405", "2a030406", (unrecognized("1.2.3.4.5"), unrecognized("1.2.3.4.6"))),
        # An X.400 address as alternative name.
        ("3002a300", "3002a300", (unrecognized("2.5.29.17", "3002a300"),)),
        ("3003010100", "3003010100", (unrecognized("2.5.29.19", "3003010100"),)),
    ],
    ids=["version", "algorithm", "duplicate extension", "general name", "boolean"],
)
def test_refuses_certificates_that_are_not_supported(
    host: Host, old: str, new: str, extensions: tuple[x509.UnrecognizedExtension, ...]
) -> None:
    pem = spoilt(host, old, new, *extensions)
    evidence = Evidence.decode(host.evidence())
    for chain in ((pem,), (*evidence.chain, pem)):
        damaged = replace(evidence, chain=chain).encode()
        assert host.refusal(damaged) == Code.EVIDENCE_MALFORMED
    assert host.refusal(host.evidence(), simulated_root_pem=pem) == Code.EVIDENCE_CHAIN


def test_refuses_a_quote_beside_simulated_evidence(host: Host) -> None:
    evidence = replace(Evidence.decode(host.evidence()), quote=b"nobody signed this")
    assert host.refusal(evidence.encode()) == Code.EVIDENCE_MALFORMED
