"""A relying party's decision about evidence: everything is refused unless configured otherwise."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature

from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected
from fl_protocol.ports import Clock
from tee_sim.certificates import verify_chain
from tee_sim.evidence import (
    DOMAIN,
    SIMULATED,
    Claims,
    Evidence,
    EvidenceVerifier,
    report_data,
)
from tee_sim.policy import EnclavePolicy, Guardrails

_MAX_AGE_SECONDS = 600


@dataclass(frozen=True)
class Attested:
    """An enclave that a trust policy accepts; keys are raw, 32 bytes each."""

    epoch: int
    hpke_key: bytes
    receipt_key: bytes
    policy: EnclavePolicy
    policy_digest: str
    isolation: Mapping[str, str]
    measurement: str


@dataclass(frozen=True)
class SimulatedVerifier:
    """Verifies evidence of the simulated platform against a pinned root (PEM)."""

    root_pem: str

    def verify(self, evidence: Evidence, now: float) -> Claims:
        """Return authentic claims; raises EvidenceRejected."""
        key = verify_chain(evidence.chain, self.root_pem, now)
        try:
            key.verify(evidence.signature, DOMAIN + evidence.payload)
        except InvalidSignature as error:
            raise EvidenceRejected(Code.EVIDENCE_CHAIN) from error
        return Claims.decode(evidence.payload)


@dataclass(frozen=True)
class TrustPolicy:
    """What a relying party demands of an enclave.

    Parameters
    ----------
    roots_of_trust : tuple of str
        Kinds of platform to trust; none by default. "simulated" proves nothing about hardware.
    simulated_root_pem : str
        Pinned root of the simulated platform.
    measurements : tuple of str
        Allowed images, hexadecimal SHA-384.
    min_security_version : int
        Oldest platform to accept.
    guardrails : Guardrails
        The weakest policy to accept.
    allow_debug : bool
        Accept an enclave whose memory can be read.
    federation : str, optional
        Federation the policy must name.
    policy_digest : str, optional
        Agreed policy; any that passes the guardrails when None.
    verifiers : Mapping of str to EvidenceVerifier
        Verifiers of further platforms by their name in `roots_of_trust`.
    """

    roots_of_trust: tuple[str, ...] = ()
    simulated_root_pem: str = ""
    measurements: tuple[str, ...] = ()
    min_security_version: int = 0
    guardrails: Guardrails = field(default_factory=Guardrails)
    allow_debug: bool = False
    federation: str | None = None
    policy_digest: str | None = None
    verifiers: Mapping[str, EvidenceVerifier] = field(default_factory=dict)

    def appraise(self, evidence: bytes, nonce: bytes, last_epoch: int, clock: Clock) -> Attested:
        """Decide about evidence, in a fixed order with one code each.

        Parameters
        ----------
        evidence : bytes
            As received, at most 16 KiB.
        nonce : bytes
            The challenge it must answer.
        last_epoch : int
            Highest epoch seen so far; older enclaves are refused.
        clock : Clock
            For validity times.

        Returns
        -------
        Attested

        Raises
        ------
        EvidenceRejected
            With the code of the first check that failed.
        """
        decoded = Evidence.decode(evidence)
        now = clock.now()
        # The platform decides which root applies, so it is looked at before the signature;
        # nothing but refusing it follows from the unauthenticated name.
        claims = self._verifier(Claims.decode(decoded.payload).platform).verify(decoded, now)
        policy = self._check_claims(claims, nonce, last_epoch, now)
        keys = claims.keys()
        return Attested(
            claims.epoch,
            keys.hpke,
            keys.receipt,
            policy,
            policy.digest,
            claims.isolation,
            claims.measurement,
        )

    def _verifier(self, platform: str) -> EvidenceVerifier:
        if platform not in self.roots_of_trust:
            if platform == SIMULATED:
                raise EvidenceRejected(Code.EVIDENCE_SIMULATED_REFUSED)
            raise EvidenceRejected(Code.EVIDENCE_CHAIN)
        if platform == SIMULATED:
            return SimulatedVerifier(self.simulated_root_pem)
        if platform not in self.verifiers:
            raise EvidenceRejected(Code.EVIDENCE_CHAIN)
        return self.verifiers[platform]

    def _check_claims(
        self, claims: Claims, nonce: bytes, last_epoch: int, now: float
    ) -> EnclavePolicy:
        _require(abs(now - claims.iat) <= _MAX_AGE_SECONDS, Code.EVIDENCE_EXPIRED)
        _require(not claims.debug or self.allow_debug, Code.EVIDENCE_DEBUG)
        _require(claims.measurement in self.measurements, Code.EVIDENCE_MEASUREMENT)
        _require(
            claims.security_version >= self.min_security_version, Code.EVIDENCE_SECURITY_VERSION
        )
        policy = _policy_of(claims)
        answered = bytes.fromhex(claims.nonce)
        expected = report_data(claims.epoch, claims.keys(), policy.digest, answered)
        _require(hmac.compare_digest(expected, claims.report_data), Code.EVIDENCE_REPORT_DATA)
        _require(hmac.compare_digest(answered, nonce), Code.EVIDENCE_NONCE)
        _require(claims.epoch >= last_epoch, Code.EVIDENCE_EPOCH)
        _require(self.policy_digest in (None, policy.digest), Code.EVIDENCE_POLICY)
        _require(self.federation in (None, policy.federation), Code.EVIDENCE_POLICY)
        self.guardrails.check(policy)
        return policy


def _policy_of(claims: Claims) -> EnclavePolicy:
    try:
        return EnclavePolicy.from_members(claims.policy)
    except ConfigInvalid as error:
        raise EvidenceRejected(Code.EVIDENCE_POLICY) from error


def _require(holds: bool, code: Code) -> None:
    if not holds:
        raise EvidenceRejected(code)
