"""The simulated platform behind the seam of appraisal: a signature under a pinned root."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature

from fl_protocol.codes import Code, EvidenceRejected
from tee_sim.certificates import verify_chain
from tee_sim.evidence import DOMAIN, Claims, Evidence
from tee_sim.quotes.revocation import RevocationLists


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
