"""What one client can change in a merge, what noise hides it, and how often it may be there."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import (
    FADAS,
    AsyncWA,
    ClientUpdate,
    Engine,
    FedAvg,
    FedBuff,
    FedStaleWeight,
    Limits,
    Privacy,
    Reject,
    Rejected,
    ReleaseRule,
    UnprivateRecipe,
    recipe_from,
)
from strategies.catalog import RECIPES
from strategies.errors import BadOption
from strategies.privacy.private_mean import PrivateMean
from strategies.privacy.settings import RESOLUTION

PRIVACY = Privacy(clip=1.0, noise_multiplier=1.0, delta=1e-5, max_epsilon=100.0)


def silent(size: int) -> bytes:
    """Return words with which the sampler draws nothing but zeros."""
    return bytes(size)


def engine_of(recipe, size: int = 50, **options: Any) -> Engine:
    given = {"privacy": PRIVACY, "entropy": silent} | options
    return Engine(recipe, np.zeros(size, np.float32), **given)


def offer(engine: Engine, client: str, delta: np.ndarray, base: int = 0, examples: int = 1):
    update = ClientUpdate(client, base, delta.astype(np.float32), examples, f"{client}-{base}")
    return engine.offer(update, 0.0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([1, 3, 1000]),
    length=st.sampled_from([1e-3, 1.0, 1e4, 2.0**80]),
    bases=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    recipe=st.sampled_from(
        [
            FedBuff(buffer_size=4),
            FedBuff(buffer_size=4, normalise="sum", staleness_exponent=1.0),
            FedStaleWeight(buffer_size=4),
            FedAvg(buffer_size=4, volume_exponent=0.0),
        ]
    ),
)
def test_content_of_one_client_changes_the_sum_by_no_more_than_the_sensitivity(
    seed, size, length, bases, recipe
) -> None:
    # noise off: the whole numbers themselves differ by at most RESOLUTION in L2 norm
    rng = np.random.default_rng(seed)
    rows = length * rng.normal(size=(4, size)).astype(np.float32)
    sums = []
    for content in (rows[0], np.zeros(size)):
        engine = engine_of(recipe, size, limits=Limits(max_staleness=10))
        engine.version = 0 if isinstance(recipe, FedAvg) else 3
        for client, row in enumerate([content, *rows[1:]]):
            base = 0 if isinstance(recipe, FedAvg) else bases[client]
            offer(engine, str(client), row, base)
        batch = engine._batch(engine.population, engine.slab.take())
        engine.aggregator.weigh(batch)
        sums.append(whole_numbers(engine.aggregator, batch))
    difference = [int(one) - int(other) for one, other in zip(*sums, strict=True)]
    assert sum(step * step for step in difference) <= RESOLUTION**2


def whole_numbers(aggregator, batch) -> np.ndarray:
    step, aggregator._step = aggregator._step, 1.0
    out = np.empty(batch.rows.shape[1], np.float64)
    aggregator.direction(batch, slice(None), out, out)
    aggregator._step = step
    return out


def test_sensitivity_is_reached_by_a_long_update() -> None:
    # the bound is no idle one: it is met to a millionth
    engine = engine_of(FedBuff(buffer_size=2, staleness_exponent=0.0), 1)
    offer(engine, "a", np.array([1e6]))
    offer(engine, "b", np.zeros(1))
    batch = engine._batch(engine.population, engine.slab.take())
    engine.aggregator.weigh(batch)
    assert RESOLUTION * (1 - 2e-6) < whole_numbers(engine.aggregator, batch)[0] <= RESOLUTION


def test_several_updates_of_a_client_count_together() -> None:
    rule = ReleaseRule(k=2, max_per_client=2, max_share=1.0, min_effective=1.0)
    recipe = FedBuff(buffer_size=3, staleness_exponent=0.0)
    engine = engine_of(recipe, 1, release_rule=rule)
    engine.version = 1
    offer(engine, "a", np.ones(1), 0)
    offer(engine, "a", np.ones(1), 1)
    offer(engine, "b", np.ones(1), 0)
    engine.aggregator.weigh(engine._batch(engine.population, engine.slab.take()))
    assert engine.aggregator._step == pytest.approx(2 / 3 / RESOLUTION)


def test_without_noise_a_merge_is_the_mean_of_clipped_updates() -> None:
    engine = engine_of(FedBuff(buffer_size=2, staleness_exponent=0.0), 4)
    offer(engine, "a", np.array([3.0, 4.0, 0.0, 0.0]))
    offer(engine, "b", np.array([0.0, 0.0, -0.5, 0.25]))
    merge = engine.merge(0.0)
    np.testing.assert_allclose(merge.params, [0.3, 0.4, -0.25, 0.125], atol=2e-6)


def test_noise_has_the_standard_deviation_that_was_asked_for() -> None:
    size = 200_000
    privacy = Privacy(clip=2.0, noise_multiplier=3.0, delta=1e-5, max_epsilon=100.0)
    entropy = np.random.default_rng(3).bytes
    engine = engine_of(FedBuff(buffer_size=4), size, privacy=privacy, entropy=entropy)
    for client in "abcd":
        offer(engine, client, np.zeros(size))
    noise = engine.merge(0.0).params.astype(float)
    # 200,000 draws: the standard error of the deviation is 0.16 %, of the mean 0.22 %
    assert noise.std() == pytest.approx(3.0 * 2.0 / 4, rel=0.007)
    assert abs(noise.mean()) < 0.01 * 1.5


def test_noise_is_drawn_anew_for_every_merge() -> None:
    merges = []
    for _ in range(2):
        engine = engine_of(FedBuff(buffer_size=1), 8, entropy=os.urandom)
        offer(engine, "a", np.zeros(8))
        merges.append(engine.merge(0.0).params)
    assert (merges[0] != merges[1]).all()


def test_without_a_source_of_noise_there_is_no_privacy() -> None:
    with pytest.raises(BadOption, match="random bytes"):
        Engine(FedBuff(buffer_size=1), np.zeros(8, np.float32), privacy=PRIVACY)


def test_length_is_no_reason_to_refuse_an_update() -> None:
    engine = engine_of(FedBuff(buffer_size=1), 1, limits=Limits(max_norm=1.0))
    assert not isinstance(offer(engine, "a", np.array([50.0])), Rejected)


def test_client_takes_part_until_its_budget_is_spent() -> None:
    privacy = Privacy(1.0, 1.0, 1e-5, 8.0)
    assert privacy.releases_per_client == 2
    engine = engine_of(FedBuff(buffer_size=2), 1, privacy=privacy)
    assert engine.budget is not None
    for version, other in enumerate("bc"):
        offer(engine, "a", np.ones(1), version)
        offer(engine, other, np.ones(1), version)
        engine.merge(0.0)
    assert engine.budget.epsilon == privacy.epsilon_after(2) <= 8.0

    answer = offer(engine, "a", np.ones(1), 2)

    assert isinstance(answer, Rejected)
    assert answer.code is Reject.DP_BUDGET
    assert not isinstance(offer(engine, "b", np.ones(1), 2), Rejected)


def test_saved_state_remembers_what_was_spent() -> None:
    privacy = Privacy(1.0, 1.0, 1e-5, 8.0)
    engine = engine_of(FedBuff(buffer_size=1), 1, privacy=privacy)
    offer(engine, "a", np.ones(1), 0)
    engine.merge(0.0)
    successor = engine_of(FedBuff(buffer_size=1), 1, privacy=privacy)
    successor.restore(engine.state())
    assert successor.budget is not None
    assert successor.budget.spent == {"a": 1}
    assert json.loads(engine.state()["meta"])["privacy"]["max_epsilon"] == 8.0


# Every recipe of the catalogue with its defaults, and the options that matter.
ALLOWED = [
    ("fedbuff", {}),
    ("fedbuff", {"server_momentum": 0.9, "published_rounds": 2.0}),
    ("fadas", {}),
    ("fedstaleweight", {}),
    ("fedavg", {"volume_exponent": 0.0}),
    ("async-wa", {"disjoint": True, "drift_correction": False, "volume_exponent": 0.0}),
]
REFUSED = [
    *((name, {}) for name in RECIPES if name not in ("fedbuff", "fadas", "fedstaleweight")),
    ("async-wa", {"disjoint": True}),
    ("async-wa", {"disjoint": True, "drift_correction": False, "volume_exponent": 1.0}),
    ("fedbuff", {"robust": "clip", "clip_norm": 1.0}),
    ("fedbuff", {"robust": "krum"}),
    ("fedbuff", {"robust": "median"}),
    ("fedbuff", {"robust": "trusted-direction", "trusted_client": "c"}),
]


@pytest.mark.parametrize(("name", "options"), ALLOWED)
def test_recipe_whose_sensitivity_is_known_is_allowed(name, options) -> None:
    recipe = recipe_from(name, buffer_size=2, **options)
    engine = engine_of(recipe)
    for client in "ab":
        assert not isinstance(offer(engine, client, np.ones(50)), Rejected)
    assert np.isfinite(engine.merge(0.0).params).all()


@pytest.mark.parametrize(("name", "options"), REFUSED)
def test_recipe_whose_sensitivity_is_not_known_is_refused(name, options) -> None:
    with pytest.raises(UnprivateRecipe, match="With differential privacy use") as refused:
        engine_of(recipe_from(name, **options))
    assert refused.value.code == "DP_RECIPE"


def test_table_names_every_recipe() -> None:
    assert {name for name, _ in ALLOWED + REFUSED} == set(RECIPES)


def test_server_optimisers_work_on_the_noisy_aggregate() -> None:
    # after the noise nothing reads an update again: FADAS and momentum are post-processing
    plain = AsyncWA(2, disjoint=True, drift_correction=False, volume_exponent=0.0)
    for recipe in (FADAS(buffer_size=2), plain):
        assert isinstance(engine_of(recipe, 3).aggregator, PrivateMean)
