"""The policy's one spelling and its bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_protocol.codes import ConfigInvalid
from tee_sim.policy import EnclavePolicy
from tests.support.enclave import policy_for

POLICY = policy_for(Ed25519PrivateKey.generate(), max_share=0.75, min_effective=1.5)


def test_policy_reads_back_what_it_writes() -> None:
    read = EnclavePolicy.from_members(json.loads(POLICY.encode()))
    assert read == POLICY
    assert read.digest == POLICY.digest


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
            {"recipe": {"name": "fedbuff", "options": {}}},
        )
    }
    assert len(digests) == 11


def test_same_number_in_another_type_is_the_same_policy() -> None:
    assert replace(POLICY, max_norm=100).digest == replace(POLICY, max_norm=100.0).digest


@pytest.mark.parametrize(
    "change",
    [
        {"federation": ""},
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
    "change", [{"max_norm": "1e2"}, {"max_norm": 100}, {"max_share": "nan"}, {"extra": 1}]
)
def test_refuses_policy_in_another_spelling(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid):
        EnclavePolicy.from_members(POLICY.to_members() | change)


def test_refuses_policy_with_missing_member() -> None:
    members = POLICY.to_members()
    del members["k"]
    with pytest.raises(ConfigInvalid):
        EnclavePolicy.from_members(members)
