"""A relying party's decision about evidence: everything is refused unless configured otherwise."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected
from fl_protocol.ports import Clock
from tee_sim.evidence import SIMULATED, Claims, Evidence, report_data
from tee_sim.policy import EnclavePolicy, Guardrails
from tee_sim.quotes.facts import SEPT_VE
from tee_sim.quotes.revocation import RevocationLists
from tee_sim.simulated_verifier import SimulatedVerifier

_MAX_AGE_SECONDS = 600


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


class Stated(Protocol):
    """What a platform states about the code it runs; `Claims` and a quote's facts both do."""

    @property
    def platform(self) -> str:
        """Kind of platform."""
        ...

    @property
    def measurement(self) -> str:
        """Hexadecimal digest of the code."""
        ...

    @property
    def security_version(self) -> int:
        """Version for the relying party's minimum."""
        ...

    @property
    def debug(self) -> bool:
        """Whether the memory can be read."""
        ...

    @property
    def unsafe_attributes(self) -> tuple[str, ...]:
        """What else of its attributes is refused unless allowed."""
        ...

    @property
    def code_signers(self) -> tuple[str, ...]:
        """Hexadecimal digests of the keys that signed the code."""
        ...

    @property
    def tcb(self) -> Mapping[str, int]:
        """Versions of the platform's parts by name."""
        ...

    @property
    def tcb_status(self) -> str:
        """The vendor's judgement of the platform; empty without collateral."""
        ...


@dataclass(frozen=True)
class Check:
    """One question of appraisal, the code of its refusal, and its answer."""

    name: str
    code: Code
    holds: bool


@dataclass(frozen=True)
class Attested:
    """An enclave that a trust policy accepts; keys are raw, 32 bytes each.

    ``evidence`` is what was appraised, as received.
    """

    epoch: int
    hpke_key: bytes
    receipt_key: bytes
    policy: EnclavePolicy
    policy_digest: str
    isolation: Mapping[str, str]
    measurement: str
    evidence: bytes


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
        Allowed images, hexadecimal: SHA-384 on the simulated platform, on hardware what the
        facts of its quotes call measurement.
    signers : Mapping of str to tuple of str
        By platform: digests of the keys one of which must have signed the code; nobody is asked
        for on a platform without a list. Whoever signs the code states its security version.
    min_security_version : int
        Oldest platform to accept.
    guardrails : Guardrails
        The weakest policy to accept.
    allow_debug : bool
        Accept an enclave whose memory can be read.
    allow_sept_ve : bool
        Accept a trust domain without SEPT_VE_DISABLE, as some clouds run them.
    federation : str, optional
        Federation the policy must name.
    policy_digest : str, optional
        Agreed policy; any that passes the guardrails when None.
    verifiers : Mapping of str to EvidenceVerifier
        Verifiers of further platforms by their name in `roots_of_trust`.
    minimum_tcb : Mapping of str to Mapping of str to int
        By platform: the least version of each named part; a part the evidence does not name is
        too old.
    tcb_statuses : tuple of str
        Allowed judgements of the vendor, as "UpToDate"; when empty none is asked for. Collateral
        exists for Intel only, so naming any refuses all other platforms.
    revocation_lists : Mapping of str to RevocationLists
        By platform: what the certificates of its evidence are held against; revocation is not
        asked for on a platform without an entry.
    """

    roots_of_trust: tuple[str, ...] = ()
    simulated_root_pem: str = ""
    measurements: tuple[str, ...] = ()
    signers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    min_security_version: int = 0
    guardrails: Guardrails = field(default_factory=Guardrails)
    allow_debug: bool = False
    allow_sept_ve: bool = False
    federation: str | None = None
    policy_digest: str | None = None
    verifiers: Mapping[str, EvidenceVerifier] = field(default_factory=dict)
    minimum_tcb: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    tcb_statuses: tuple[str, ...] = ()
    revocation_lists: Mapping[str, RevocationLists] = field(default_factory=dict)

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
        platform = Claims.decode(decoded.payload).platform
        revocation = self.revocation_lists.get(platform)
        claims = self.verifier(platform).verify(decoded, now, revocation)
        _require(age_check(claims, now), *self.platform_checks(claims))
        policy = policy_of(claims)
        _require(report_data_check(claims, policy), *_freshness_checks(claims, nonce, last_epoch))
        _require(*self.policy_checks(policy))
        self.guardrails.check(policy)
        keys = claims.keys()
        return Attested(
            claims.epoch,
            keys.hpke,
            keys.receipt,
            policy,
            policy.digest,
            claims.isolation,
            claims.measurement,
            evidence,
        )

    def for_kept_evidence(self) -> Self:
        """Return the policy for evidence of the past, with revocation lists of any date.

        What was revoked since must not vouch for anything, not even in the past: who has the key
        can date evidence back.
        """
        undated = {name: replace(each, dated=False) for name, each in self.revocation_lists.items()}
        return replace(self, revocation_lists=undated)

    def verifier(self, platform: str) -> EvidenceVerifier:
        """Return the verifier of a platform that is trusted.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_SIMULATED_REFUSED`` or ``EVIDENCE_PLATFORM``: nobody named the platform, or
            nothing here can verify it.
        """
        if platform not in self.roots_of_trust:
            if platform == SIMULATED:
                raise EvidenceRejected(Code.EVIDENCE_SIMULATED_REFUSED)
            raise EvidenceRejected(Code.EVIDENCE_PLATFORM)
        if platform == SIMULATED:
            return SimulatedVerifier(self.simulated_root_pem)
        if platform not in self.verifiers:
            raise EvidenceRejected(
                Code.EVIDENCE_PLATFORM, "There is no verifier for the platform of the evidence."
            )
        return self.verifiers[platform]

    def platform_checks(self, stated: Stated) -> tuple[Check, ...]:
        """Return what is asked about the platform and the code it runs, in order."""
        minimum = self.minimum_tcb.get(stated.platform, {})
        recent = all(stated.tcb.get(part, -1) >= least for part, least in minimum.items())
        known = stated.measurement in self.measurements
        signers = self.signers.get(stated.platform)
        signed = signers is None or not set(signers).isdisjoint(stated.code_signers)
        version_holds = stated.security_version >= self.min_security_version
        judged = not self.tcb_statuses or stated.tcb_status in self.tcb_statuses
        unsafe = set(stated.unsafe_attributes) - ({SEPT_VE} if self.allow_sept_ve else set())
        return (
            Check("debug off", Code.EVIDENCE_DEBUG, not stated.debug or self.allow_debug),
            Check("attributes", Code.EVIDENCE_ATTRIBUTES, not unsafe),
            Check("measurement known", Code.EVIDENCE_MEASUREMENT, known),
            Check("signer known", Code.EVIDENCE_SIGNER, signed),
            Check("security version", Code.EVIDENCE_SECURITY_VERSION, version_holds),
            Check("TCB versions", Code.EVIDENCE_TCB_VERSION, recent),
            Check("TCB status", Code.EVIDENCE_TCB_STATUS, judged),
        )

    def policy_checks(self, policy: EnclavePolicy) -> tuple[Check, ...]:
        """Return whether the policy is the agreed one, in order; the guardrails come after."""
        agreed = self.policy_digest in (None, policy.digest)
        ours = self.federation in (None, policy.federation)
        return (
            Check("policy agreed", Code.EVIDENCE_POLICY, agreed),
            Check("federation", Code.EVIDENCE_POLICY, ours),
        )


def policy_of(claims: Claims) -> EnclavePolicy:
    """Return the policy the claims carry; raises EvidenceRejected ``EVIDENCE_POLICY``."""
    try:
        return EnclavePolicy.from_members(claims.policy)
    except ConfigInvalid as error:
        raise EvidenceRejected(Code.EVIDENCE_POLICY) from error


def age_check(claims: Claims, now: float) -> Check:
    """Return whether the claims were made within ten minutes of `now` (Unix seconds)."""
    return Check("age", Code.EVIDENCE_EXPIRED, abs(now - claims.iat) <= _MAX_AGE_SECONDS)


def report_data_check(claims: Claims, policy: EnclavePolicy) -> Check:
    """Return whether the platform's report data vouches for epoch, keys, policy and nonce."""
    expected = report_data(claims.epoch, claims.keys(), policy.digest, bytes.fromhex(claims.nonce))
    holds = hmac.compare_digest(expected, claims.report_data)
    return Check("report data", Code.EVIDENCE_REPORT_DATA, holds)


def _freshness_checks(claims: Claims, nonce: bytes, last_epoch: int) -> tuple[Check, ...]:
    answered = hmac.compare_digest(bytes.fromhex(claims.nonce), nonce)
    return (
        Check("challenge", Code.EVIDENCE_NONCE, answered),
        Check("epoch", Code.EVIDENCE_EPOCH, claims.epoch >= last_epoch),
    )


def _require(*checks: Check) -> None:
    for check in checks:
        if not check.holds:
            raise EvidenceRejected(check.code)
