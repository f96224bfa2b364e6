"""What a release rule allows of the filters: whole updates of k clients, or a refusal."""

import numpy as np
import pytest

from strategies import AsyncWA, BadOption, Engine, FedBuff, LeakyRecipe, ReleaseRule
from strategies.confidential import require_confidential
from tests.strategies.helpers import engine_of, merge_of, update

K, BUFFER = 3, 5
KRUM = FedBuff(BUFFER, staleness_exponent=0.0, robust="krum", attackers=0.4)
LEAKY = [
    FedBuff(robust="median"),
    FedBuff(robust="trimmed-mean"),
    FedBuff(robust="trusted-direction", trusted_client="a"),
    AsyncWA(disjoint=True, robust="median"),
]


@pytest.mark.parametrize("recipe", LEAKY, ids=repr)
def test_filters_that_pick_or_weigh_by_content_are_leaky(recipe):
    with pytest.raises(LeakyRecipe, match="whole updates"):
        engine_of(recipe, release_rule=ReleaseRule(K))
    with pytest.raises(LeakyRecipe):
        require_confidential(recipe)


def test_median_would_hand_out_a_victims_values():
    """k - 1 colluders on either side of the victim: the reason for the refusal."""
    victim = np.array([0.3, -0.7, 0.1], np.float32)
    engine = Engine(FedBuff(K, staleness_exponent=0.0, robust="median"), np.zeros(3, np.float32))

    merge = merge_of(
        engine,
        update(victim, client="victim"),
        update([9, 9, 9], client="x"),
        update([-9, -9, -9], client="y"),
    )

    np.testing.assert_allclose(merge.params, victim, rtol=1e-6)


def test_krum_under_a_rule_releases_the_mean_of_at_least_k_clients():
    engine = engine_of(KRUM, release_rule=ReleaseRule(K))
    merge = merge_of(
        engine, *(update([value], client=f"c{value}") for value in (1, 2, 3, 500, 900))
    )

    assert merge.weights == pytest.approx((1 / 3, 1 / 3, 1 / 3, 0.0, 0.0))
    assert merge.params[0] == pytest.approx(2.0)
    # Who was left out is not to be seen in what was consumed.
    assert len(merge.consumed) == BUFFER


def test_weights_of_those_chosen_keep_the_share_bound():
    recipe = AsyncWA(
        BUFFER,
        disjoint=True,
        adaptive=False,
        drift_correction=False,
        volume_exponent=1.0,
        robust="krum",
        attackers=0.4,
    )
    engine = engine_of(recipe, release_rule=ReleaseRule(K, max_share=0.4))
    values = [(1.0, 1000), (2.0, 1), (3.0, 1), (500.0, 1000), (900.0, 1000)]
    merge = merge_of(
        engine,
        *(update([value], client=f"c{value}", examples=many) for value, many in values),
    )

    shares = np.array(merge.weights) / sum(merge.weights)
    assert np.count_nonzero(shares) == K
    assert shares.max() <= 0.4 * (1 + 1e-6)


def test_early_merge_still_chooses_k():
    recipe = FedBuff(BUFFER, robust="krum", attackers=0.4, max_wait=1.0)
    engine = engine_of(recipe, release_rule=ReleaseRule(K))
    for client in "abc":
        engine.offer(update([1.0], client=client), 0.0)

    assert np.count_nonzero(engine.merge(2.0).weights) == K


@pytest.mark.parametrize(
    ("recipe", "rule", "reason"),
    [
        (KRUM, ReleaseRule(BUFFER), "remain"),
        (KRUM, ReleaseRule(K, max_per_client=2), "max_per_client"),
        (KRUM, ReleaseRule(K, max_leverage=0.9), "leverage"),
    ],
)
def test_krum_is_refused_where_the_rule_could_not_be_kept(recipe, rule, reason):
    with pytest.raises(BadOption, match=reason):
        engine_of(recipe, release_rule=rule)


def test_clipped_updates_may_be_released_with_bounded_leverage():
    recipe = FedBuff(K, staleness_exponent=0.0, robust="clip", clip_norm=1.0)
    engine = engine_of(recipe, release_rule=ReleaseRule(K, max_leverage=0.7))
    merge = merge_of(engine, *(update([value], client=f"c{value}") for value in (5, 0.5, -9, 3)))

    assert merge.params[0] == pytest.approx((1 + 0.5 - 1 + 1) / 4)


def test_update_of_weight_zero_hides_nobody():
    rule = ReleaseRule(K)
    assert rule.allows("abcd", [1.0, 1.0, 1.0, 0.0])
    assert not rule.allows("abc", [1.0, 1.0, 0.0])
    assert not rule.allows("abc", [0.0, 0.0, 0.0])
