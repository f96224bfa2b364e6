"""Quotes: those recorded on hardware, and made-up ones under a root that only tests pin."""

from __future__ import annotations

import datetime
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tee_sim.quotes.chains import key_digest

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

RECORDED_AT = 1_750_500_000.0  # June 2025, when the recordings were fresh
QE_SIGNERS = {
    "sgx": bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"),
    "tdx": bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"),
}
FMSPC = bytes.fromhex("00906ed50000")  # family and model of a platform
SEPT_VE_DISABLE = 1 << 28
# Version and kind of the quotes of Intel's that are made here.
KINDS = [(3, "sgx"), (4, "sgx"), (4, "tdx"), (5, "sgx"), (5, "tdx"), (5, "tdx15")]
_START = datetime.datetime.fromtimestamp(RECORDED_AT, datetime.UTC)
_SGX_EXTENSION = "1.2.840.113741.1.13.1"
_SGX_OID = bytes.fromhex("2a864886f84d010d01")


def recorded(name: str) -> bytes:
    """Read a recording; skip without it on a desk, fail without it in CI."""
    sibling = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
    path = Path(os.environ.get("ASYNCLAVE_VECTORS") or sibling) / "quotes" / name
    if not path.exists():
        message = f"{name} not found; set ASYNCLAVE_VECTORS to the folder that holds quotes/"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path.read_bytes()


def recorded_snp_chain() -> tuple[str, ...]:
    """VCEK, ASK and ARK of the recorded SEV-SNP report, PEM."""
    vcek = x509.load_der_x509_certificate(recorded("vcek.testcer"))
    above = x509.load_pem_x509_certificates(recorded("milan.testcer"))
    return tuple(each.public_bytes(Encoding.PEM).decode() for each in (vcek, *above))


class Vendor:
    """A vendor's root and intermediate, made for tests."""

    def __init__(
        self,
        middle_may_issue: bool = True,
        middle_may_list: bool = True,
        curve: ec.EllipticCurve | None = None,
        root_key: Key | None = None,
    ) -> None:
        self.middle_key = ec.generate_private_key(curve or ec.SECP384R1())
        self.root_key = root_key or ec.generate_private_key(curve or ec.SECP384R1())
        self.root = _issue("root", self.root_key, "root", self.root_key, True)
        self.middle = _issue(
            "middle", self.middle_key, "root", self.root_key, middle_may_issue, middle_may_list
        )
        self.root_keys = frozenset({key_digest(self.root)})

    def chain(
        self, key: ec.EllipticCurvePrivateKey, extensions: dict[str, bytes]
    ) -> tuple[str, ...]:
        """PEM chain of a leaf with a vendor's extensions."""
        leaf = _issue("leaf", key, "middle", self.middle_key, False, False, extensions)
        return tuple(
            certificate.public_bytes(Encoding.PEM).decode()
            for certificate in (leaf, self.middle, self.root)
        )

    def signer_of_data(self, key: ec.EllipticCurvePrivateKey) -> tuple[x509.Certificate, ...]:
        """A certificate for signing data, as Intel's for TCB info, and the root."""
        return _issue("data", key, "root", self.root_key, False), self.root

    def revocations(
        self,
        issuer: str | x509.Name,
        *serials: int,
        days: tuple[int, int] = (-1, 30),
        **spoilt: Any,
    ) -> x509.CertificateRevocationList:
        """A list by "root" or "middle", from and until so many days after the recordings."""
        first, last = (_START + datetime.timedelta(days=each) for each in days)
        signer = spoilt.get("signer") or getattr(self, f"{issuer}_key")
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(issuer) if isinstance(issuer, str) else issuer)
            .last_update(first)
            .next_update(last)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
            )
        )
        if extension := spoilt.get("critical"):
            builder = builder.add_extension(extension, critical=True)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(first)
            if extension := spoilt.get("critical_entry"):
                entry = entry.add_extension(extension, critical=True)
            builder = builder.add_revoked_certificate(entry.build())
        algorithm = _hash(signer)
        # As AMD signs its lists.
        pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        is_rsa = isinstance(signer, rsa.RSAPrivateKey)
        return builder.sign(signer, algorithm, rsa_padding=pss if is_rsa else None)


@dataclass
class IntelMaker:
    """Writes Intel quotes of any version; each field can be spoilt."""

    vendor: Vendor
    version: int = 4
    kind: str = "tdx"  # "sgx", "tdx" or, in version 5, "tdx15"
    report_data: bytes = bytes(64)
    attributes: int | None = None
    svn: int = 3
    mr_signer_seam: bytes = bytes(48)
    mr_service_td: bytes = bytes(48)
    qe_signer: bytes | None = None
    qe_attributes: int = 1
    auth_data: bytes = bytes(range(32))
    bound: bytes | None = None
    platform_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def make(self) -> bytes:
        """Return the quote."""
        sgx = self.kind == "sgx"
        body = self._sgx_report() if sgx else self._td_report()
        key = ec.generate_private_key(ec.SECP256R1())
        number = key.public_key().public_numbers()
        raw_key = number.x.to_bytes(32) + number.y.to_bytes(32)
        bound = self.bound or hashlib.sha256(raw_key + self.auth_data).digest() + bytes(32)
        signer = self.qe_signer or QE_SIGNERS["sgx" if sgx else "tdx"]
        qe = sgx_report(self.qe_attributes, bytes(32), signer, 1 if sgx else 2, 7, bound)
        header = (
            _u(self.version, 2)
            + _u(2, 2)
            + _u(0 if sgx else 0x81, 4)
            + bytes(4)
            + bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
            + bytes(20)
        )
        if self.version == 5:
            header += _u({"sgx": 1, "tdx": 2, "tdx15": 3}[self.kind], 2) + _u(len(body), 4)
        pem = "".join(self.vendor.chain(self.platform_key, {_SGX_EXTENSION: _sgx_extension()}))
        certification = (
            qe
            + _sign(self.platform_key, qe)
            + _u(len(self.auth_data), 2)
            + self.auth_data
            + _part(5, pem.encode() + b"\0")
        )
        if self.version > 3:
            certification = _part(6, certification)
        section = _sign(key, header + body) + raw_key + certification
        return header + body + _u(len(section), 4) + section

    def _sgx_report(self) -> bytes:
        attributes = 1 if self.attributes is None else self.attributes
        return sgx_report(attributes, b"m" * 32, b"s" * 32, 9, self.svn, self.report_data)

    def _td_report(self) -> bytes:
        report = (
            _u(self.svn, 1)
            + bytes(15)
            + bytes(48)
            + self.mr_signer_seam
            + bytes(8)
            + _u(SEPT_VE_DISABLE if self.attributes is None else self.attributes, 8)
            + bytes(8)
            + b"t" * 48
            + bytes(144)
            + b"0" * 48
            + b"1" * 48
            + b"2" * 48
            + b"3" * 48
            + self.report_data
        )
        return report + (bytes(16) + self.mr_service_td if self.kind == "tdx15" else b"")


@dataclass
class SnpMaker:
    """Writes SEV-SNP reports with their chain; each field can be spoilt."""

    vendor: Vendor
    report_data: bytes = bytes(64)
    policy: int = 0x30000
    vmpl: int = 0
    flags: int = 0
    guest_svn: int = 3
    chip_id: bytes = b"c" * 64
    tcb: bytes = bytes([4, 0, 0, 0, 0, 0, 24, 219])
    certified_chip: bytes = b"c" * 64
    certified_microcode: int = 219
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    version: int = 2

    def make(self) -> tuple[bytes, tuple[str, ...]]:
        """Return report and PEM chain."""
        key = ec.generate_private_key(ec.SECP384R1())
        report = bytearray(0x2A0)
        fields = {
            0x00: _u(self.version, 4),
            0x04: _u(self.guest_svn, 4),
            0x08: _u(self.policy, 8),
            0x30: _u(self.vmpl, 4),
            0x34: _u(1, 4),
            0x48: _u(self.flags, 4),
            0x50: self.report_data,
            0x90: b"m" * 48,
            0xE0: self.id_key_digest,
            0x110: self.author_key_digest,
            0x180: self.tcb,
            0x1A0: self.chip_id,
        }
        for place, value in fields.items():
            report[place : place + len(value)] = value
        r, s = utils.decode_dss_signature(key.sign(bytes(report), ec.ECDSA(hashes.SHA384())))
        numbers = {1: 4, 2: 0, 3: 24, 4: 0, 5: 0, 6: 0, 7: 0, 8: self.certified_microcode}
        extensions = {
            f"1.3.6.1.4.1.3704.1.3.{n}": _integer(value) for n, value in numbers.items()
        } | {"1.3.6.1.4.1.3704.1.4": self.certified_chip}
        signature = r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)
        return bytes(report) + signature, self.vendor.chain(key, extensions)


def no_next_update(revoked: x509.CertificateRevocationList) -> bytes:
    """DER of a list without its nextUpdate, and with a signature that no longer fits."""
    signed, whole = revoked.tbs_certlist_bytes, revoked.public_bytes(Encoding.DER)
    assert revoked.next_update_utc is not None
    until = _der(0x17, revoked.next_update_utc.strftime("%y%m%d%H%M%SZ").encode())
    members = signed[-_content_length(signed) :].replace(until, b"")
    rest = whole[-_content_length(whole) :].removeprefix(signed)
    return _der(0x30, _der(0x30, members) + rest)


def sgx_report(
    attributes: int, enclave: bytes, signer: bytes, product: int, svn: int, report_data: bytes
) -> bytes:
    """An SGX enclave report of 384 bytes."""
    return (
        bytes(48)
        + _u(attributes, 8)
        + bytes(8)
        + enclave
        + bytes(32)
        + signer
        + bytes(96)
        + _u(product, 2)
        + _u(svn, 2)
        + bytes(60)
        + report_data
    )


def _u(value: int, length: int) -> bytes:
    return value.to_bytes(length, "little")


def _part(kind: int, data: bytes) -> bytes:
    return _u(kind, 2) + _u(len(data), 4) + data


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = size.to_bytes((size.bit_length() + 7) // 8 or 1)
    if size >= 0x80:
        length = bytes([0x80 + len(length)]) + length
    return bytes([tag]) + length + content


def _content_length(data: bytes) -> int:
    size = data[1] - 0x80
    return int.from_bytes(data[2 : 2 + size]) if size > 0 else data[1]


def _integer(value: int) -> bytes:
    return _der(2, value.to_bytes(value.bit_length() // 8 + 1))


def _sgx_extension() -> bytes:
    def pair(oid: bytes, value: bytes) -> bytes:
        return _der(0x30, _der(6, oid) + value)

    tcb = _SGX_OID + b"\2"
    versions = b"".join(pair(tcb + bytes([n]), _integer(n)) for n in range(1, 18))
    versions += pair(tcb + bytes([18]), _der(4, bytes(range(1, 17))))
    members = {
        b"\1": _der(4, bytes(16)),  # PPID
        b"\2": _der(0x30, versions),
        b"\3": _der(4, bytes(2)),  # PCE
        b"\4": _der(4, FMSPC),
        b"\5": _der(10, b"\0"),  # kind of SGX
    }
    return _der(0x30, b"".join(pair(_SGX_OID + n, value) for n, value in members.items()))


def _issue(
    name: str,
    key: Key,
    issuer: str,
    issuer_key: Key,
    authority: bool,
    lists: bool | None = None,
    extensions: dict[str, bytes] | None = None,
) -> x509.Certificate:
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_START - datetime.timedelta(days=1))
        .not_valid_after(_START + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                key_cert_sign=authority,
                crl_sign=authority if lists is None else lists,
                **usage,
            ),
            critical=True,
        )
    )
    for oid, value in (extensions or {}).items():
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
        )
    return builder.sign(issuer_key, _hash(issuer_key))


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _hash(key: Key) -> hashes.SHA256 | hashes.SHA384:
    return hashes.SHA384() if key.key_size > 256 else hashes.SHA256()
