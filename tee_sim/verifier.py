"""The seam of appraisal, one verifier for each kind of platform, and the simulated one's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.certificates import verify_chain
from tee_sim.evidence import DOMAIN, Claims, Evidence
from tee_sim.quotes.revocation import RevocationLists


class EvidenceVerifier(Protocol):
    """Checks one kind of platform's signature over evidence and reads its claims."""

    def verify(self, evidence: Evidence, now: float, revocation: RevocationLists | None) -> Claims:
        """Return authentic claims.

        Parameters
        ----------
        evidence : Evidence
            As received.
        now : float
            Unix seconds.
        revocation : RevocationLists, optional
            What the certificates must be held against; nothing when None.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_MALFORMED``, ``EVIDENCE_CHAIN``, ``EVIDENCE_EXPIRED``, ``EVIDENCE_REVOKED``
            or ``EVIDENCE_REVOCATION_LIST``.
        """
        ...


@dataclass(frozen=True)
class SimulatedVerifier:
    """Verifies evidence of the simulated platform against a pinned root (PEM)."""

    root_pem: str

    def verify(self, evidence: Evidence, now: float, revocation: RevocationLists | None) -> Claims:
        """Return authentic claims; raises EvidenceRejected."""
        if revocation is not None:
            raise EvidenceRejected(
                Code.EVIDENCE_REVOCATION_LIST, "A simulated platform has no revocation lists."
            )
        if evidence.quote:
            # Nothing would vouch for these bytes, and every byte of evidence must count.
            raise EvidenceRejected(Code.EVIDENCE_MALFORMED)
        key = verify_chain(evidence.chain, self.root_pem, now)
        try:
            key.verify(evidence.signature, DOMAIN + evidence.payload)
        except InvalidSignature as error:
            raise EvidenceRejected(Code.EVIDENCE_CHAIN) from error
        return Claims.decode(evidence.payload)
