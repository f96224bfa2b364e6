"""Paths of certificates: who may issue what."""

from __future__ import annotations

import datetime
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.certificates import verify_chain

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
NOW = START.timestamp() + 3600
CERT_SIGN = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
SIGN_ONLY = x509.KeyUsage(True, False, False, False, False, False, False, False, False)


class Authority(NamedTuple):
    """A key and its certificate."""

    key: Ed25519PrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(
        self,
        name: str,
        *extensions: tuple[x509.ExtensionType, bool],
        ca: bool = True,
        path_length: int | None = None,
    ) -> Authority:
        return issued(name, self, extensions, x509.BasicConstraints(ca, path_length))


def issued(
    name: str,
    issuer: Authority | None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    constraints: x509.BasicConstraints | None = None,
) -> Authority:
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=1))
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Authority(key, builder.sign(issuer.key if issuer else key, None))


def root(path_length: int | None = None) -> Authority:
    return issued("root", None, (), x509.BasicConstraints(True, path_length))


def refusal(*path: Authority) -> Code:
    with pytest.raises(EvidenceRejected) as refused:
        verify_chain([each.pem for each in path[:-1]], path[-1].pem, NOW)
    return refused.value.code


def test_a_path_through_authorities_gives_the_key_of_its_leaf() -> None:
    top = root(path_length=1)
    middle = top.issue("middle", (CERT_SIGN, True), path_length=0)
    leaf = middle.issue("leaf", (SIGN_ONLY, True), ca=False)

    key = verify_chain([leaf.pem, middle.pem], top.pem, NOW)

    assert key.public_bytes_raw() == leaf.key.public_key().public_bytes_raw()


@pytest.mark.parametrize("lengths", [(0, None), (None, 0), (1, 0)])
def test_no_more_authorities_may_follow_than_one_allows(lengths: tuple[int | None, ...]) -> None:
    top = root(lengths[0])
    upper = top.issue("upper", path_length=lengths[1])
    lower = upper.issue("lower")
    leaf = lower.issue("leaf", ca=False)

    assert refusal(leaf, lower, upper, top) == Code.EVIDENCE_CHAIN


def test_an_authority_whose_key_is_not_for_certificates_issues_none() -> None:
    top = root()
    middle = top.issue("middle", (SIGN_ONLY, True))

    assert refusal(middle.issue("leaf", ca=False), middle, top) == Code.EVIDENCE_CHAIN


def test_what_is_no_authority_issues_none() -> None:
    top = root()
    middle = top.issue("middle", ca=False)
    silent = issued("silent", top)

    assert refusal(middle.issue("leaf", ca=False), middle, top) == Code.EVIDENCE_CHAIN
    assert refusal(silent.issue("leaf", ca=False), silent, top) == Code.EVIDENCE_CHAIN


@pytest.mark.parametrize("where", ["leaf", "middle"])
def test_a_critical_extension_that_nobody_reads_is_refused(where: str) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    for critical in (True, False):
        extension = {where: [(unknown, critical)]}
        top = root()
        middle = top.issue("middle", *extension.get("middle", []))
        leaf = middle.issue("leaf", *extension.get("leaf", []), ca=False)
        if critical:
            assert refusal(leaf, middle, top) == Code.EVIDENCE_CHAIN
        else:
            verify_chain([leaf.pem, middle.pem], top.pem, NOW)
