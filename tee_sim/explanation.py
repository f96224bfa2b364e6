"""Why evidence would be accepted or refused: every check of appraisal with its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from fl_protocol.codes import SENTENCES, EvidenceRejected
from tee_sim.appraisal import (
    Check,
    TrustPolicy,
    age_check,
    policy_of,
    report_data_check,
)
from tee_sim.evidence import Claims, Evidence
from tee_sim.quotes.chains import check_validity
from tee_sim.quotes.collateral import tcb_status
from tee_sim.quotes.facts import Facts, Quote
from tee_sim.quotes.revocation import RevocationLists, issuer_name
from tee_sim.quotes.verifiers import ROOT_KEYS, check_payload, read_evidence, read_quote
from tee_sim.simulated_verifier import SimulatedVerifier

_COMPARE = "a bare quote carries no claims; compare its report data with what you asked for"
_NEEDS_CLAIMS = "a bare quote carries no claims"
_NEEDS_CHALLENGE = "only who sent the challenge can tell"
_NEEDS_CERTIFICATES = "no certificates were given"
_NEEDS_LISTS = "the policy names no revocation_lists for this platform"


class Outcome(StrEnum):
    """Answer of one check."""

    OK = "ok"
    REFUSED = "refused"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One check's answer; `code` is empty unless it was refused."""

    name: str
    outcome: Outcome
    code: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Explanation:
    """What evidence states and what each check says, in the order of appraisal."""

    stated: Facts | Claims
    registers: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def code(self) -> str:
        """Code of the first refusal; empty when there is none."""
        return next((finding.code for finding in self.findings if finding.code), "")

    @property
    def accepted(self) -> bool:
        """Whether nothing that could be checked was refused."""
        return not self.code


def explain(
    data: bytes,
    trust: TrustPolicy,
    now: float,
    certificates: tuple[str, ...] = (),
    collateral: str = "",
) -> Explanation:
    """Explain a quote, a report or evidence as it travels.

    Parameters
    ----------
    data : bytes
        Intel quote, SEV-SNP report, or the JSON of `Evidence`.
    trust : TrustPolicy
        What would be demanded.
    now : float
        Unix seconds at which certificates are judged.
    certificates : tuple of str
        PEM certificates for a bare SEV-SNP report: VCEK, ASK, ARK.
    collateral : str
        Intel's collateral as JSON; its status is demanded only where `trust` does.

    Returns
    -------
    Explanation

    Raises
    ------
    EvidenceRejected
        ``EVIDENCE_MALFORMED``: it cannot be read at all.
    ConfigInvalid
        The collateral cannot be used.
    """
    if not data.startswith(b"{"):
        quote = read_quote(data, certificates, padded=True)
        rest = [Finding("report data", Outcome.NOT_CHECKED, detail=_COMPARE)]
        rest += _not_checked(("challenge", "epoch", "policy", "guardrails"), _NEEDS_CLAIMS)
        judged, status = _judged(data, collateral, now)
        facts = replace(quote.facts(), tcb_status=status)
        return _explanation(facts, quote, trust, [*_vouched(quote, trust, now), *judged], rest)
    evidence = Evidence.decode(data)
    if not evidence.quote:
        claims = Claims.decode(evidence.payload)
        verifier = SimulatedVerifier(trust.simulated_root_pem)
        revocation = trust.revocation_lists.get(claims.platform)
        vouched = [_ask("signatures", lambda: verifier.verify(evidence, now, revocation))]
        return _explanation(claims, None, trust, [*vouched, _answer(age_check(claims, now))], [])
    claims, quote = read_evidence(evidence)
    vouched = _vouched(quote, trust, now)
    vouched.insert(1, _ask("claims signed", lambda: check_payload(evidence, claims)))
    judged, status = _judged(evidence.quote, collateral, now)
    vouched += [*judged, _answer(age_check(claims, now))]
    return _explanation(replace(claims, tcb_status=status), quote, trust, vouched, [])


def _explanation(
    stated: Facts | Claims,
    quote: Quote | None,
    trust: TrustPolicy,
    vouched: list[Finding],
    rest: list[Finding],
) -> Explanation:
    findings = (
        _ask("platform trusted", lambda: trust.verifier(stated.platform)),
        *vouched,
        *(_answer(check) for check in trust.platform_checks(stated)),
        *(_claimed(stated, trust) if isinstance(stated, Claims) else rest),
    )
    registers = quote.facts().registers if quote else {}
    return Explanation(stated, registers, findings)


def _vouched(quote: Quote, trust: TrustPolicy, now: float) -> list[Finding]:
    platform = quote.facts().platform
    signatures = _ask("signatures", lambda: quote.authenticate(ROOT_KEYS[platform]))
    if not quote.certificates:
        return [signatures, *_not_checked(("validity", "revocation"), _NEEDS_CERTIFICATES)]
    validity = _ask("validity", lambda: check_validity(quote.certificates, now))
    return [signatures, validity, _revocation(quote, trust.revocation_lists.get(platform), now)]


def _revocation(quote: Quote, revocation: RevocationLists | None, now: float) -> Finding:
    if revocation is None:
        return Finding("revocation", Outcome.NOT_CHECKED, detail=_NEEDS_LISTS)
    try:
        used = revocation.check(quote.certificates, now)
    except EvidenceRejected as error:
        return _refused("revocation", error)
    lists = "; ".join(f"{issuer_name(each)} of {each.last_update_utc:%Y-%m-%d}" for each in used)
    ignored = len(revocation.lists) - len(used)
    return Finding("revocation", Outcome.OK, detail=f"lists: {lists or 'none'}; ignored: {ignored}")


def _judged(quote: bytes, collateral: str, now: float) -> tuple[list[Finding], str]:
    if not collateral:
        return [], ""
    try:
        judged = tcb_status(quote, collateral, now)
    except EvidenceRejected as error:
        return [_refused("collateral", error)], ""
    detail = " ".join((judged.status, *judged.advisories))
    return [Finding("collateral", Outcome.OK, detail=detail)], judged.status


def _claimed(claims: Claims, trust: TrustPolicy) -> list[Finding]:
    fresh = _not_checked(("challenge", "epoch"), _NEEDS_CHALLENGE)
    try:
        policy = policy_of(claims)
    except EvidenceRejected as error:
        return [_refused("policy", error), *fresh]
    return [
        _answer(report_data_check(claims, policy)),
        *fresh,
        *(_answer(check) for check in trust.policy_checks(policy)),
        _ask("guardrails", lambda: trust.guardrails.check(policy)),
    ]


def _not_checked(names: tuple[str, ...], reason: str) -> list[Finding]:
    return [Finding(name, Outcome.NOT_CHECKED, detail=reason) for name in names]


def _ask(name: str, question: Callable[[], object]) -> Finding:
    try:
        question()
    except EvidenceRejected as error:
        return _refused(name, error)
    return Finding(name, Outcome.OK)


def _refused(name: str, error: EvidenceRejected) -> Finding:
    return Finding(name, Outcome.REFUSED, error.code, error.sentence)


def _answer(check: Check) -> Finding:
    if check.holds:
        return Finding(check.name, Outcome.OK)
    return Finding(check.name, Outcome.REFUSED, check.code, SENTENCES[check.code])
