"""Hardware behind the seam of appraisal: a quote that vouches for the claims beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.evidence import DOMAIN, Claims, Evidence
from tee_sim.quotes import sev_snp
from tee_sim.quotes.chains import (
    AMD_ROOT_KEYS,
    CHAIN_LENGTH,
    INTEL_ROOT_KEYS,
    check_validity,
    read_pem_chain,
)
from tee_sim.quotes.collateral import tcb_status
from tee_sim.quotes.facts import AMD_SEV_SNP, INTEL_SGX, INTEL_TDX, Quote
from tee_sim.quotes.intel import IntelQuote
from tee_sim.quotes.revocation import RevocationLists
from tee_sim.quotes.sev_snp import SnpReport

ROOT_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {INTEL_SGX: INTEL_ROOT_KEYS, INTEL_TDX: INTEL_ROOT_KEYS, AMD_SEV_SNP: AMD_ROOT_KEYS}
)

_BEGIN = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class HardwareVerifier:
    """Verifies evidence of one kind of hardware.

    The quote's word replaces the payload's for measurement, debug status, attributes, signers,
    security version and report data. The rest of the payload is signed with the receipt key, and
    appraisal goes on to check that the report data vouches for that key.

    Parameters
    ----------
    platform : str
        "intel-sgx", "intel-tdx" or "amd-sev-snp".
    root_keys : frozenset of str
        Hexadecimal SHA-256 digests of the vendor roots' public keys.
    collateral : str
        Intel's collateral as JSON, for the status of the platform; none when empty.
    """

    platform: str
    root_keys: frozenset[str]
    collateral: str = ""

    def verify(self, evidence: Evidence, now: float, revocation: RevocationLists | None) -> Claims:
        """Return authentic claims; raises EvidenceRejected."""
        claims, quote = read_evidence(evidence)
        if claims.platform != self.platform:
            raise EvidenceRejected(Code.EVIDENCE_MALFORMED)
        quote.authenticate(self.root_keys)
        check_payload(evidence, claims)
        check_validity(quote.certificates, now)
        if revocation is not None:
            revocation.check(quote.certificates, now)
        if not self.collateral:
            return claims
        judged = tcb_status(evidence.quote, self.collateral, now)
        return replace(claims, tcb_status=judged.status)


def hardware_verifiers() -> dict[str, HardwareVerifier]:
    """Return a verifier for each kind of hardware, with the vendors' roots pinned."""
    return {platform: HardwareVerifier(platform, keys) for platform, keys in ROOT_KEYS.items()}


def read_evidence(evidence: Evidence) -> tuple[Claims, Quote]:
    """Decode hardware evidence; nothing is verified yet.

    Returns
    -------
    Claims
        The payload's, with the quote's word in place of its own.
    Quote

    Raises
    ------
    EvidenceRejected
        ``EVIDENCE_MALFORMED``, also when payload and quote name different platforms.
    """
    claims = Claims.decode(evidence.payload)
    quote = read_quote(evidence.quote, evidence.chain)
    facts = quote.facts()
    if facts.platform != claims.platform:
        raise EvidenceRejected(Code.EVIDENCE_MALFORMED)
    stated = replace(
        claims,
        measurement=facts.measurement,
        debug=facts.debug,
        signer_id=facts.signer_id,
        security_version=facts.security_version,
        report_data=facts.report_data,
        tcb=facts.tcb,
        unsafe_attributes=facts.unsafe_attributes,
        code_signers=facts.code_signers,
    )
    return stated, quote


def read_quote(data: bytes, chain: Sequence[str], *, padded: bool = False) -> Quote:
    """Decode a quote of any supported kind; nothing is verified yet.

    Parameters
    ----------
    data : bytes
        Intel quote (version 3, 4 or 5) or SEV-SNP report.
    chain : sequence of str
        PEM certificates, leaf first and root included; none for Intel, whose quotes carry them.
    padded : bool
        Allow zero bytes after an Intel quote.

    Raises
    ------
    EvidenceRejected
        ``EVIDENCE_MALFORMED``.
    """
    if len(data) == sev_snp.REPORT_BYTES:
        return SnpReport.decode(data, _certificates(chain))
    if chain:
        raise EvidenceRejected(Code.EVIDENCE_MALFORMED, "An Intel quote carries its certificates.")
    return IntelQuote.decode(data, padded=padded)


def _certificates(chain: Sequence[str]) -> tuple[x509.Certificate, ...]:
    try:
        # One certificate a member, or the same chain would have many spellings.
        if not all(pem.startswith(_BEGIN) for pem in chain) or len(chain) not in (0, CHAIN_LENGTH):
            raise ValueError("not three certificates")
        return read_pem_chain("".join(chain).encode()) if chain else ()
    except ValueError as error:
        raise EvidenceRejected(
            Code.EVIDENCE_MALFORMED, f"The certificates could not be read: {error}."
        ) from error


def check_payload(evidence: Evidence, claims: Claims) -> None:
    """Check the enclave's signature over its claims; raises EvidenceRejected ``EVIDENCE_CHAIN``."""
    try:
        key = Ed25519PublicKey.from_public_bytes(claims.keys().receipt)
        key.verify(evidence.signature, DOMAIN + evidence.payload)
    except (ValueError, InvalidSignature) as error:
        raise EvidenceRejected(
            Code.EVIDENCE_CHAIN, "The claims are not signed with the enclave's receipt key."
        ) from error
