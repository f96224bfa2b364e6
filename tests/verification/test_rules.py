"""Rules that a chain can break although an attested enclave signed every record of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asynclave.verification.rules import Flaw, Ledger
from fl_protocol import records
from fl_protocol.chain import Link
from fl_protocol.receipts import (
    ACCEPTED,
    GENESIS,
    Chained,
    Opening,
    Receipt,
    Release,
    updates_digest,
)
from fl_protocol.signatures import Signed
from strategies import FedAvg, Privacy
from tests.support.enclave import FEDERATION, described, policy_for

POLICY = policy_for(Ed25519PrivateKey.generate())
LAYOUT, MODEL = "a" * 64, "b" * 64
PLACE: dict[str, Any] = {"epoch": 1, "seq": 0, "prev": GENESIS, "iat": 0}


def opening(**changes: Any) -> Opening:
    members = {
        "v": 1,
        "run_id": "r",
        "version": 0,
        "model_digest": MODEL,
        "manifest_digest": LAYOUT,
        "continues": GENESIS,
        "policy_digest": POLICY.digest,
        **PLACE,
    }
    return Opening(**{**members, **changes})


def receipt(client: str, **changes: Any) -> Receipt:
    members = {
        "v": 1,
        "federation": FEDERATION,
        "run_id": "r",
        "client_id": client,
        "update_id": f"update-{client}",
        "body_digest": "c" * 64,
        "base_version": 0,
        "outcome": ACCEPTED,
        "staleness": 0,
        "version": 0,
        "trace_id": "d" * 32,
        **PLACE,
    }
    return Receipt(**{**members, **changes})


def release(*clients: str, **changes: Any) -> Release:
    members = {
        "v": 1,
        "run_id": "r",
        "version": 1,
        "model_digest": "e" * 64,
        "manifest_digest": LAYOUT,
        "updates_digest": updates_digest(f"update-{client}" for client in clients),
        "num_updates": len(clients),
        "num_clients": len(clients),
        "epsilon": "none",
        "policy_digest": POLICY.digest,
        **PLACE,
    }
    return Release(**{**members, **changes})


def linked(record: Chained) -> Link:
    return Link(Signed(records.encode(record), b""), record)


def ledger_of(*chain: Chained) -> tuple[Ledger, Flaw | None]:
    ledger = Ledger({1: POLICY, 2: POLICY}, LAYOUT)
    return ledger, ledger.follow([linked(record) for record in chain])


def follow(*chain: Chained) -> Flaw | None:
    return ledger_of(*chain)[1]


def reopened(after: Release, **changes: Any) -> Opening:
    """The run opened by a successor that remembers a release as the newest handed out."""
    members = {"version": after.version, "model_digest": after.model_digest} | changes
    return opening(epoch=2, continues=linked(after).digest, **members)


def honest() -> list[Chained]:
    return [opening(), receipt("a"), receipt("b"), release("a", "b")]


def test_an_honest_run_breaks_no_rule() -> None:
    refused = receipt("a", outcome="TOO_STALE", staleness=9)
    late = receipt("c", update_id="update-d", staleness=1)
    again = receipt("a", update_id="update-e", base_version=1)
    second = release("d", "e", version=2, model_digest="f" * 64)
    assert follow(*honest(), refused, late, again, second) is None


def test_a_buffer_dies_with_its_enclave_and_its_updates_may_come_again() -> None:
    assert follow(opening(), receipt("a"), opening(epoch=2), *honest()[1:]) is None


def test_a_discarded_buffer_is_in_no_release_and_its_updates_may_come_again() -> None:
    discarded = receipt("x", outcome="LEVERAGE_BOUND")
    assert follow(opening(), receipt("a"), receipt("b"), discarded, *honest()[1:]) is None
    other = receipt("x", outcome="NONFINITE")
    assert follow(opening(), receipt("a"), receipt("b"), other, *honest()[1:]) is not None


def test_memory_that_was_turned_back_behind_a_release_is_named() -> None:
    first = release("a", "b")
    late = [receipt("c", staleness=1), receipt("d", staleness=1)]
    second = release("c", "d", version=2, model_digest="f" * 64)
    assert follow(*honest(), *late, second, reopened(second)) is None
    found = follow(*honest(), *late, second, reopened(first))
    assert found is not None and (found.index, found.kind) == (7, "opening")
    assert "does not continue version 2" in found.detail


def test_what_was_handed_out_stays_consumed_in_the_next_epoch() -> None:
    first = release("a", "b")
    found = follow(*honest(), reopened(first), receipt("a", epoch=2, staleness=1))
    assert found is not None and (found.index, found.kind) == (5, "receipt")


def released(version: int, *updates: Receipt) -> list[Chained]:
    record = release(
        *(update.update_id.removeprefix("update-") for update in updates),
        version=version,
        model_digest=f"{version:064x}",
    )
    return [*updates, record]


def of_version(base: int, name: str, update: str, **changes: Any) -> Receipt:
    return receipt(name, update_id=f"update-{update}", base_version=base, **changes)


def test_an_id_may_be_used_again_when_no_enclave_can_remember_it() -> None:
    chain: list[Chained] = [*honest()]
    for version in range(1, POLICY.max_staleness + 1):
        pair = [of_version(version, name, f"{name}{version}") for name in ("a", "b")]
        again = of_version(version, "a", "a")
        found = follow(*chain, again)
        assert found is not None and (found.index, found.kind) == (len(chain), "receipt")
        chain += released(version + 1, *pair)
    version = POLICY.max_staleness + 1
    assert follow(*chain, of_version(version, "a", "a")) is None
    # Also not by another client, who may know it from the records.
    assert follow(*chain, of_version(version, "c", "a")) is None


def test_an_id_is_remembered_for_as_long_as_the_recipe_takes_late_updates() -> None:
    policy = policy_for(Ed25519PrivateKey.generate(), recipe=described(FedAvg(buffer_size=2)))
    chain = [opening(policy_digest=policy.digest), receipt("a"), receipt("b")]
    chain += [release("a", "b", policy_digest=policy.digest), of_version(1, "a", "a")]
    assert policy.max_staleness > 0
    assert Ledger({1: policy}, LAYOUT).follow([linked(record) for record in chain]) is None


def test_a_second_update_of_a_client_from_one_version_is_named() -> None:
    found = follow(*honest(), of_version(0, "a", "other", staleness=1))
    assert found is not None and (found.index, found.kind) == (4, "receipt")
    assert "an update of a from version 0" in found.detail


def test_a_run_that_continues_a_release_not_among_its_records_is_named() -> None:
    first = release("a", "b")
    assert follow(reopened(first)) == Flaw(0, "opening", "the run began before these records")
    found = follow(*honest(), reopened(replace(first, iat=9)))
    assert found is not None and (found.index, found.kind) == (4, "opening")


def test_records_of_another_run_are_not_this_runs() -> None:
    other = [opening(run_id="s"), receipt("a", run_id="s"), release("x", run_id="s", version=7)]
    assert follow(*honest()[:2], *other, *honest()) is None


@pytest.mark.parametrize(
    ("change", "index", "kind"),
    [
        (lambda c: c.insert(2, receipt("b", update_id="update-a")), 2, "receipt"),
        (lambda c: c.insert(2, receipt("a", update_id="update-x")), 2, "receipt"),
        (lambda c: c.append(receipt("c", update_id="update-a", staleness=1)), 4, "receipt"),
        (lambda c: c.append(receipt("c")), 4, "receipt"),
        (lambda c: c.append(receipt("c", base_version=9)), 4, "receipt"),
        (lambda c: c.insert(1, receipt("c", federation="other")), 1, "receipt"),
        (lambda c: c.pop(1), 2, "release"),
        (lambda c: c.insert(1, receipt("c")), 4, "release"),
        (lambda c: c.append(release("a", "b", version=2)), 4, "release"),
    ],
    ids=[
        "an update accepted twice",
        "a client twice in one buffer",
        "an update of an earlier release",
        "a staleness that is not",
        "a base version that is not",
        "another federation",
        "a release of an update without receipt",
        "a release without an accepted update",
        "a release of updates released before",
    ],
)
def test_a_broken_rule_is_named_with_its_record(
    change: Callable[[list[Chained]], object], index: int, kind: str
) -> None:
    chain = honest()
    change(chain)
    found = follow(*chain)
    assert found is not None and (found.index, found.kind) == (index, kind)


@pytest.mark.parametrize(
    "members",
    [
        {"version": 2},
        {"policy_digest": "0" * 64},
        {"manifest_digest": "0" * 64},
        {"updates_digest": "0" * 64},
        {"num_updates": 3},
        {"num_clients": 3},
    ],
    ids=str,
)
def test_a_release_that_does_not_fit_is_named(members: dict[str, Any]) -> None:
    chain = honest()
    chain[3] = replace(release("a", "b"), **members)
    found = follow(*chain)
    assert found is not None and (found.index, found.kind) == (3, "release")


def test_a_release_of_fewer_clients_than_the_policy_is_named() -> None:
    found = follow(opening(), receipt("a"), release("a"))
    assert found == Flaw(2, "release", "1 clients are fewer than the policy's 2")


@pytest.mark.parametrize(
    "members", [{"model_digest": "0" * 64, "version": 1}, {"version": 0}, {"version": 2}], ids=str
)
def test_a_run_opened_again_from_another_model_is_named(members: dict[str, Any]) -> None:
    first = release("a", "b")
    assert follow(*honest(), reopened(first)) is None
    found = follow(*honest(), reopened(first, **members))
    assert found is not None and (found.index, found.kind) == (4, "opening")


def test_epsilon_is_recomputed_from_who_was_in_which_release() -> None:
    private = replace(POLICY, dp=Privacy(1.0, 1.0, 1e-5, 50.0))
    assert private.dp is not None
    once, twice = private.dp.stated(1), private.dp.stated(2)
    place = {"policy_digest": private.digest}

    def followed(*epsilons: str) -> Flaw | None:
        chain = [opening(**place), receipt("a"), receipt("b")]
        chain.append(release("a", "b", epsilon=epsilons[0], **place))
        later = {"update_id": "update-c", "base_version": 1}
        chain += [receipt("a", **later), receipt("d", staleness=1)]
        second = {"version": 2, "model_digest": "f" * 64, "epsilon": epsilons[1]}
        chain.append(release("c", "d", **second, **place))
        return Ledger({1: private}, LAYOUT).follow([linked(record) for record in chain])

    assert followed(once, twice) is None
    for wrong in ((once, once), ("none", twice), (twice, twice), (once, "none")):
        flaw = followed(*wrong)
        assert flaw is not None and flaw.kind == "release"


@pytest.mark.parametrize("changed", [None, Privacy(1.0, 2.0, 1e-5, 50.0)])
def test_run_keeps_its_privacy_once_something_was_released(changed: Privacy | None) -> None:
    private = replace(POLICY, dp=Privacy(1.0, 1.0, 1e-5, 50.0))
    policies = {1: private, 2: replace(POLICY, dp=changed)}
    place = {"policy_digest": private.digest}
    early = release("a", "b", epsilon=private.dp.stated(1) if private.dp else "", **place)
    again = {"policy_digest": policies[2].digest, "epoch": 2}
    unreleased = [opening(**place), receipt("a"), receipt("b")]
    members = {"version": 1, "model_digest": early.model_digest}
    continued = opening(continues=linked(early).digest, **members, **again)

    def followed(*chain: Chained) -> Flaw | None:
        return Ledger(policies, LAYOUT).follow([linked(record) for record in chain])

    flaw = followed(*unreleased, early, continued)

    assert flaw is not None and (flaw.index, flaw.kind) == (4, "opening")
    assert "differential privacy" in flaw.detail
    assert followed(*unreleased, opening(**again)) is None
