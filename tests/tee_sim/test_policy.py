"""The policy's one spelling and its bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import ConfigInvalid, EvidenceRejected
from strategies import Privacy
from tee_sim.policy import EnclavePolicy, Guardrails
from tests.support.enclave import policy_for

PRIVACY = Privacy(clip=1.0, noise_multiplier=1.0, delta=1e-5, max_epsilon=8.0)
POLICY = policy_for(Ed25519PrivateKey.generate(), max_share=0.75, min_effective=1.5)


def test_policy_reads_back_what_it_writes() -> None:
    for policy in (POLICY, replace(POLICY, dp=PRIVACY)):
        read = EnclavePolicy.from_members(json.loads(policy.encode()))
        assert read == policy
        assert read.digest == policy.digest


def test_every_member_changes_the_digest() -> None:
    digests = {
        replace(POLICY, **change).digest
        for change in (
            {},
            {"federation": "banks"},
            {"k": 3},
            {"max_per_client": 2},
            {"max_share": None},
            {"min_effective": None},
            {"max_leverage": 0.5},
            {"max_staleness": 4},
            {"max_norm": float("inf")},
            {"max_examples": 5},
            {"dp": PRIVACY},
            {"dp": replace(PRIVACY, delta=1e-6)},
            {"recipe": {"name": "fedbuff", "options": {}}},
        )
    }
    assert len(digests) == 13


def test_same_number_in_another_type_is_the_same_policy() -> None:
    assert replace(POLICY, max_norm=100).digest == replace(POLICY, max_norm=100.0).digest


@pytest.mark.parametrize(
    "change",
    [
        {"federation": ""},
        {"federation": "my hospitals"},
        {"federation": "f" * 129},
        {"k": 1},
        {"k": True},
        {"k": "2"},
        {"max_per_client": 0},
        {"max_staleness": -1},
        {"max_norm": 0.0},
        {"max_norm": float("nan")},
        {"max_examples": 0},
        {"max_share": -0.5},
        {"max_share": float("inf")},
        {"max_leverage": 0.0},
        {"recipe": {"name": "fedbuff"}},
        {"recipe": {"name": "fedbuff", "options": {"buffer_size": 4}}},
        {"issuer_key": "short"},
        {"issuer_key": None},
    ],
)
def test_refuses_policy_with_wrong_member(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid):
        replace(POLICY, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"max_norm": "1e2"},
        {"max_norm": 100},
        {"max_share": "nan"},
        {"extra": 1},
        {"dp": "some"},
        {"dp": PRIVACY.texts() | {"clip": "1"}},
        {"dp": PRIVACY.texts() | {"delta": "2.0"}},
        {"dp": {"clip": "1.0"}},
    ],
)
def test_refuses_policy_in_another_spelling(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid):
        EnclavePolicy.from_members(POLICY.to_members() | change)


def test_refuses_policy_with_missing_member() -> None:
    members = POLICY.to_members()
    del members["k"]
    with pytest.raises(ConfigInvalid):
        EnclavePolicy.from_members(members)


@pytest.mark.parametrize(
    ("guardrails", "accepts"),
    [
        (Guardrails(max_epsilon=8.0), True),
        (Guardrails(max_epsilon=8.0, max_delta=1e-5), True),
        (Guardrails(max_epsilon=7.9), False),
        (Guardrails(max_delta=1e-6), False),
    ],
)
def test_guardrails_bound_what_releases_may_tell(guardrails: Guardrails, accepts: bool) -> None:
    with pytest.raises(EvidenceRejected):
        guardrails.check(POLICY)
    policy = replace(POLICY, dp=PRIVACY)
    if accepts:
        guardrails.check(policy)
    else:
        with pytest.raises(EvidenceRejected):
            guardrails.check(policy)
