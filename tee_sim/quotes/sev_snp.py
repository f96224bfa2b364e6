"""Attestation reports of AMD SEV-SNP, signed with ECDSA over P-384 by a chip's VCEK.

Sources: AMD SEV Secure Nested Paging Firmware ABI Specification (56860), "ATTESTATION_REPORT"
and "POLICY"; AMD VCEK Certificate and KDS Interface Specification (57230), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.quotes.chains import check_signature, extension, key_digest, leaf_key
from tee_sim.quotes.facts import AMD_SEV_SNP, Facts
from tee_sim.quotes.reader import Reader

REPORT_BYTES = 1184

_SIGNED_BYTES = 0x2A0
_VERSIONS = range(2, 6)
_P384_SHA384 = 1
_MIGRATION_AGENT, _DEBUG = 1 << 18, 1 << 19
_HARDWARE_ID = "1.3.6.1.4.1.3704.1.4"
# Byte of the TCB version (Milan and Genoa) by the last number of the certificate's extension.
_CERTIFIED = {1: 0, 2: 1, 4: 2, 5: 3, 6: 4, 7: 5, 3: 6, 8: 7}


@dataclass(frozen=True)
class SnpReport:
    """A decoded report; nothing it states is to be believed before `authenticate`."""

    signed: bytes
    guest_svn: int
    policy: int
    vmpl: int
    signing_key: int
    report_data: str
    measurement: str
    host_data: str
    id_key_digest: str
    author_key_digest: str
    reported_tcb: bytes
    chip_id: bytes
    r: int
    s: int
    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def decode(cls, data: bytes, certificates: tuple[x509.Certificate, ...]) -> Self:
        """Read a report of exactly 1184 bytes.

        Parameters
        ----------
        data : bytes
            The report.
        certificates : tuple of Certificate
            VCEK, ASK and ARK.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_MALFORMED``.
        """
        try:
            return cls._read(data, certificates)
        except ValueError as error:
            raise EvidenceRejected(
                Code.EVIDENCE_MALFORMED, f"The SEV-SNP report could not be read: {error}."
            ) from error

    @classmethod
    def _read(cls, data: bytes, certificates: tuple[x509.Certificate, ...]) -> Self:
        reader = Reader(data)
        version, guest_svn, policy = reader.number(4), reader.number(4), reader.number(8)
        reader.take(16 + 16)  # FAMILY_ID, IMAGE_ID
        vmpl, algorithm = reader.number(4), reader.number(4)
        if version not in _VERSIONS or algorithm != _P384_SHA384:
            raise ValueError("its version or signature algorithm is not supported")
        reader.take(8 + 8)  # CURRENT_TCB, PLATFORM_INFO
        signing_key = reader.number(4) >> 2 & 0b111
        reader.take(4)
        report_data, measurement = reader.hexadecimal(64), reader.hexadecimal(48)
        host_data = reader.hexadecimal(32)
        id_key_digest, author_key_digest = reader.hexadecimal(48), reader.hexadecimal(48)
        reader.take(32 + 32)  # REPORT_ID, REPORT_ID_MA
        reported_tcb = reader.take(8)
        reader.take(24)
        chip_id = reader.take(64)
        reader.take(_SIGNED_BYTES - reader.offset)
        # R and S have room for 576 bits; what no P-384 signature needs must be zero.
        r, s = reader.number(72), reader.number(72)
        reader.skip_zeros(REPORT_BYTES - _SIGNED_BYTES - 144)
        reader.end()
        return cls(
            data[:_SIGNED_BYTES],
            guest_svn,
            policy,
            vmpl,
            signing_key,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            reported_tcb,
            chip_id,
            r,
            s,
            certificates,
        )

    def facts(self) -> Facts:
        """Return what the report states."""
        tcb = self.reported_tcb
        return Facts(
            platform=AMD_SEV_SNP,
            measurement=self.measurement,
            signer_id=key_digest(self.certificates[0]) if self.certificates else "",
            security_version=self.guest_svn,
            debug=bool(self.policy & (_DEBUG | _MIGRATION_AGENT)),
            tcb={"bootloader": tcb[0], "tee": tcb[1], "snp": tcb[6], "microcode": tcb[7]},
            report_data=self.report_data,
            code_signers=tuple(
                # Zeros where the guest was launched without an ID block, or without an author.
                digest
                for digest in (self.id_key_digest, self.author_key_digest)
                if digest.strip("0")
            ),
            registers={
                "policy": f"{self.policy:016x}",
                "vmpl": str(self.vmpl),
                "host_data": self.host_data,
                "id_key_digest": self.id_key_digest,
                "author_key_digest": self.author_key_digest,
                "chip_id": self.chip_id.hex(),
            },
        )

    def authenticate(self, root_keys: frozenset[str]) -> None:
        """Check every signature up to a pinned root, and that the VCEK is of this chip and TCB.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_CHAIN``.
        """
        key = leaf_key(self.certificates, root_keys, ec.SECP384R1)
        check_signature(key, self.r, self.s, self.signed, hashes.SHA384(), "the report")
        _require(self.signing_key == 0, "The report is signed with another key than a VCEK.")
        _require(self._is_certified(), "The VCEK is of another chip or another TCB version.")
        _require(self.vmpl == 0, "The report was asked for at another privilege level than VMPL 0.")

    def _is_certified(self) -> bool:
        leaf = self.certificates[0]
        try:
            return extension(leaf, _HARDWARE_ID) == self.chip_id and all(
                extension(leaf, f"1.3.6.1.4.1.3704.1.3.{number}")
                == _der_integer(self.reported_tcb[place])
                for number, place in _CERTIFIED.items()
            )
        except ValueError:
            return False


def _der_integer(value: int) -> bytes:
    # A leading zero keeps DER from reading the top bit as a sign.
    content = value.to_bytes(1 if value < 0x80 else 2)
    return bytes([2, len(content)]) + content


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise EvidenceRejected(Code.EVIDENCE_CHAIN, sentence)
