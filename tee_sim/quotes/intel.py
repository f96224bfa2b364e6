"""Quotes of Intel SGX and TDX: versions 3, 4 and 5, signed with ECDSA over P-256.

Sources: Intel SGX ECDSA Quote Library Reference, appendix A (version 3); Intel TDX DCAP Quoting
Library API, appendix A (versions 4 and 5). Three signatures carry a quote: the attestation key's
over header and report, the PCK's over the report of the quoting enclave that made that key, and
the certificate chain's over the PCK.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.quotes import tdx
from tee_sim.quotes.chains import check_signature, key_digest, leaf_key, read_pem_chain
from tee_sim.quotes.facts import INTEL_SGX, INTEL_TDX, Facts
from tee_sim.quotes.pck import certified_tcb
from tee_sim.quotes.reader import Reader
from tee_sim.quotes.sgx import REPORT_BYTES, SgxReport
from tee_sim.quotes.tdx import TdReport

MAX_QUOTE_BYTES = 10 << 10

_P256_KEY_TYPE = 2
_SGX, _TDX = 0x00, 0x81
_INTEL_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_PEM_CHAIN, _QUOTING_ENCLAVE = 5, 6
# Kinds of report in version 5: platform and length.
_BODIES = {
    1: (_SGX, REPORT_BYTES),
    2: (_TDX, tdx.REPORT_10_BYTES),
    3: (_TDX, tdx.REPORT_15_BYTES),
}
# Signer and product of Intel's quoting enclaves, as the recorded quotes and the QE identities
# that Intel signed for them name them.
_QUOTING_ENCLAVES = {
    _SGX: ("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff", 1),
    _TDX: ("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5", 2),
}


@dataclass(frozen=True)
class IntelQuote:
    """A decoded quote; nothing it states is to be believed before `authenticate`."""

    platform: int
    signed: bytes
    report: SgxReport | TdReport
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    quoting_enclave: SgxReport
    qe_signature: bytes
    qe_auth_data: bytes
    certificates: tuple[x509.Certificate, ...]
    certified: dict[str, int]

    @classmethod
    def decode(cls, data: bytes, *, padded: bool = False) -> Self:
        """Read a quote, strictly.

        Parameters
        ----------
        data : bytes
            The quote, at most 10 KiB.
        padded : bool
            Allow zero bytes after the quote, as some drivers hand out a whole buffer.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_MALFORMED``.
        """
        try:
            if len(data) > MAX_QUOTE_BYTES:
                raise ValueError("longer than any quote")
            return cls._read(data, padded)
        except (ValueError, LookupError) as error:
            raise EvidenceRejected(
                Code.EVIDENCE_MALFORMED, f"The Intel quote could not be read: {error}."
            ) from error

    @classmethod
    def _read(cls, data: bytes, padded: bool) -> Self:
        reader = Reader(data)
        version, platform = _read_header(reader)
        report = _read_report(reader, version, platform)
        signed = data[: reader.offset]
        section = Reader(reader.take(reader.number(4)))
        reader.end(padded=padded)
        signature, attestation_key = section.take(64), section.take(64)
        certification = section if version == 3 else _certification(section, _QUOTING_ENCLAVE)
        qe_report, qe_signature = certification.take(REPORT_BYTES), certification.take(64)
        auth_data = certification.take(certification.number(2))
        pem = _certification(certification, _PEM_CHAIN)
        certification.end()
        section.end()  # of which `certification` is a part from version 4 on
        # Intel ends the text with one NUL, which is part of its declared length.
        certificates = read_pem_chain(pem.rest().removesuffix(b"\0"))
        return cls(
            platform,
            signed,
            report,
            signature,
            attestation_key,
            qe_report,
            SgxReport.decode(qe_report),
            qe_signature,
            auth_data,
            certificates,
            certified_tcb(certificates[0]),
        )

    def facts(self) -> Facts:
        """Return what the quote states."""
        return Facts(
            platform=INTEL_SGX if self.platform == _SGX else INTEL_TDX,
            measurement=self.report.measurement,
            signer_id=key_digest(self.certificates[0]),
            security_version=self.report.security_version,
            debug=self.report.debug,
            unsafe_attributes=self.report.unsafe_attributes,
            code_signers=self.report.code_signers,
            tcb=self.certified
            | {"qe_svn": self.quoting_enclave.security_version}
            | self.report.tcb(),
            report_data=self.report.report_data.hex(),
            registers=self.report.registers(),
        )

    def authenticate(self, root_keys: frozenset[str]) -> None:
        """Check every signature up to a pinned root.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_CHAIN``.
        """
        platform_key = leaf_key(self.certificates, root_keys, ec.SECP256R1)
        _check(platform_key, self.qe_signature, self.qe_report, "the quoting enclave's report")
        self._check_quoting_enclave()
        _check(_public_key(self.attestation_key), self.signature, self.signed, "the quote")
        if isinstance(self.report, TdReport) and not self.report.of_intel_module:
            raise EvidenceRejected(
                Code.EVIDENCE_CHAIN, "The trust domain does not run under Intel's TDX module."
            )

    def _check_quoting_enclave(self) -> None:
        bound = hashlib.sha256(self.attestation_key + self.qe_auth_data).digest() + bytes(32)
        enclave = self.quoting_enclave
        if not hmac.compare_digest(bound, enclave.report_data):
            raise EvidenceRejected(
                Code.EVIDENCE_CHAIN, "The quoting enclave does not vouch for the attestation key."
            )
        known = (enclave.mr_signer, enclave.product_id) == _QUOTING_ENCLAVES[self.platform]
        if enclave.debug or not known:
            raise EvidenceRejected(
                Code.EVIDENCE_CHAIN, "The quote was not made by Intel's quoting enclave."
            )


def _read_header(reader: Reader) -> tuple[int, int]:
    version, key_type, platform = reader.number(2), reader.number(2), reader.number(4)
    reader.take(4)  # reserved, or the versions of QE and PCE, which the PCK certifies anyway
    vendor = reader.take(16)
    reader.take(20)
    if version not in (3, 4, 5) or key_type != _P256_KEY_TYPE or vendor != _INTEL_VENDOR:
        raise ValueError("its version, key type or vendor is not supported")
    if platform not in ((_SGX,) if version == 3 else (_SGX, _TDX)):
        raise ValueError("its kind of platform is not supported")
    return version, platform


def _read_report(reader: Reader, version: int, platform: int) -> SgxReport | TdReport:
    length = REPORT_BYTES if platform == _SGX else tdx.REPORT_10_BYTES
    if version == 5:
        expected, length = _BODIES[reader.number(2)]
        if expected != platform or reader.number(4) != length:
            raise ValueError("its report is not of the announced kind")
    body = reader.take(length)
    return SgxReport.decode(body) if platform == _SGX else TdReport.decode(body)


def _certification(reader: Reader, kind: int) -> Reader:
    if reader.number(2) != kind:
        raise ValueError("its certification data is of another kind")
    return Reader(reader.take(reader.number(4)))


def _public_key(raw: bytes) -> ec.EllipticCurvePublicKey:
    x, y = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise EvidenceRejected(
            Code.EVIDENCE_CHAIN, "The attestation key is no point of its curve."
        ) from error


def _check(key: ec.EllipticCurvePublicKey, raw: bytes, message: bytes, what: str) -> None:
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    check_signature(key, r, s, message, hashes.SHA256(), what)
