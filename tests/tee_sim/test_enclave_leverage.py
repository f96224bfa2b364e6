"""An enclave whose policy bounds leverage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from strategies import AsyncWA, FedAvg, Recipe
from tests.support.enclave import INITIAL, Lab, SealedImage, described

# One client with all the data is alone in any release of it.
DATA_RULES = FedAvg(buffer_size=2)
CACHED = AsyncWA(buffer_size=2, disjoint=True)


def started(sealed_image: SealedImage, recipe: Recipe, **changes: Any) -> Lab:
    lab = Lab(sealed_image, changes={"recipe": described(recipe), "max_leverage": 0.5} | changes)
    assert lab.open_run(described(recipe))["ok"]
    return lab


@pytest.fixture
def data_rules(sealed_image: SealedImage) -> Iterator[Lab]:
    lab = started(sealed_image, DATA_RULES)
    yield lab
    lab.close()


def test_buffer_of_k_is_held_until_one_more_client_joins(data_rules: Lab) -> None:
    data_rules.merge_with(1.0, 3.0)
    assert data_rules.status() == {**data_rules.status(), "version": 0, "pending": 2}

    data_rules.merge_with(5.0)

    record, params = data_rules.release(1)
    np.testing.assert_allclose(params, INITIAL + 3, rtol=1e-6)
    assert (record.num_updates, record.num_clients) == (3, 3)


def test_held_buffer_is_not_handed_out(data_rules: Lab) -> None:
    data_rules.merge_with(1.0, 3.0)
    reply = data_rules.ask({"op": "GET_RELEASE", "run_id": data_rules.run_id, "version": 1})
    assert reply["code"] == "RELEASE_NOT_READY"


def test_buffer_that_stays_above_the_bound_is_discarded_whole(data_rules: Lab) -> None:
    rich = data_rules.update(data_rules.member("rich"), 9.0, num_examples=1000)
    poor = [data_rules.update(data_rules.member(name), 1.0, num_examples=1) for name in "abc"]
    first = [data_rules.submit(update) for update in (rich, *poor[:2])]
    assert all(reply["ok"] for reply in first)

    assert data_rules.submit(poor[2])["code"] == "LEVERAGE_BOUND"

    assert data_rules.status() == {**data_rules.status(), "version": 0, "pending": 0}
    # in no release, so the same sealed updates count when they come again
    for update in poor:
        assert data_rules.submit(update)["ok"]
    np.testing.assert_allclose(data_rules.release(1)[1], INITIAL + 1, rtol=1e-6)


def test_cached_deltas_are_judged_as_well(sealed_image: SealedImage) -> None:
    lab = started(sealed_image, CACHED)
    try:
        lab.merge_with(1.0, 3.0, 5.0)
        digest = lab.release(1)[0].model_digest
        members = [lab.member(name) for name in "ab"]
        for member in members:
            assert lab.send(member, 2.0, base_version=1, base_model_digest=digest)["ok"]
        # The cached deltas of three others hide the one that does not collude, though not enough.
        assert lab.status() == {**lab.status(), "version": 1, "pending": 2}
        lab.merge_with(4.0, base_version=1, base_model_digest=digest)
        assert lab.release(2)[0].num_clients == 3
    finally:
        lab.close()


def test_refuses_a_run_whose_policy_no_buffer_could_meet(sealed_image: SealedImage) -> None:
    lab = Lab(sealed_image, changes={"max_leverage": 0.1})
    try:
        reply = lab.open_run()
        assert (reply["ok"], reply["code"]) == (False, "RUN_RECIPE")
        assert "max_leverage" in reply["sentence"]
    finally:
        lab.close()
