"""What a piece of hardware states about the code it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography import x509

INTEL_SGX, INTEL_TDX, AMD_SEV_SNP = "intel-sgx", "intel-tdx", "amd-sev-snp"
RESERVED_ATTRIBUTE, SEPT_VE = "reserved", "sept-ve"


@dataclass(frozen=True)
class Facts:
    """Statements of a quote, in the terms of appraisal.

    Parameters
    ----------
    platform : str
        "intel-sgx", "intel-tdx" or "amd-sev-snp".
    measurement : str
        Hexadecimal: MRENCLAVE (32 bytes); SHA-384 of MRTD and the four RTMRs; SNP MEASUREMENT.
    signer_id : str
        Hexadecimal SHA-256 of the public key (SubjectPublicKeyInfo) of the PCK or VCEK; empty
        without its certificate.
    security_version : int
        ISVSVN of SGX, first component of TEE_TCB_SVN of TDX, GUEST_SVN of SNP.
    debug : bool
        Whether another party may read the memory: debugging or migration is allowed.
    tcb : Mapping of str to int
        Versions of the platform's parts by name.
    report_data : str
        Hexadecimal, 64 bytes chosen by the code that asked for the quote.
    registers : Mapping of str to str
        Further measured values by name, hexadecimal or decimal.
    tcb_status : str
        The vendor's judgement of the platform; empty without collateral.
    unsafe_attributes : tuple of str
        Of a trust domain: "reserved" where an attribute is set whose meaning is not known,
        "sept-ve" where the host may raise #VE by taking a page away (no SEPT_VE_DISABLE).
    code_signers : tuple of str
        Hexadecimal digests of the keys that signed the code: MRSIGNER of SGX; of SNP those of the
        ID key and of the author's key, where there are any; none of TDX.
    """

    platform: str
    measurement: str
    signer_id: str
    security_version: int
    debug: bool
    tcb: Mapping[str, int]
    report_data: str
    registers: Mapping[str, str]
    tcb_status: str = ""
    unsafe_attributes: tuple[str, ...] = ()
    code_signers: tuple[str, ...] = ()


class Quote(Protocol):
    """A decoded quote; nothing it states is to be believed before `authenticate`."""

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """Certificates from the leaf up to the vendor's root."""
        ...

    def facts(self) -> Facts:
        """Return what the quote states."""
        ...

    def authenticate(self, root_keys: frozenset[str]) -> None:
        """Check every signature up to a pinned root.

        Parameters
        ----------
        root_keys : frozenset of str
            Hexadecimal SHA-256 digests of the roots' public keys.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_CHAIN``.
        """
        ...
