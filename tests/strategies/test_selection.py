"""Selection policies, and the selector that follows them."""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import BadOption, StrategyError
from strategies.errors import UnknownPolicy
from strategies.selection import (
    POLICIES,
    Auction,
    Estimates,
    LoadAware,
    Selector,
    Speed,
    Uniform,
    bids,
    highest,
    policy_from,
    selector_for,
)

EVERY_POLICY = [policy_from(name) for name in POLICIES]
for_every_policy = pytest.mark.parametrize("policy", EVERY_POLICY, ids=repr)
fast = settings(max_examples=40, deadline=None)


def estimates(*, duration=None, reliability=None, utilisation=None, untried=None):
    columns = [c for c in (duration, reliability, utilisation, untried) if c is not None]
    n = len(columns[0])
    return Estimates(
        clients=tuple(range(n)),
        untried=np.array(untried or [False] * n),
        duration=np.array(duration or [1.0] * n),
        reliability=np.array(reliability or [1.0] * n),
        utilisation=np.array(utilisation or [0.0] * n),
    )


@st.composite
def known(draw):
    n = draw(st.integers(1, 12))

    def column(low, high):
        return draw(st.lists(st.floats(low, high), min_size=n, max_size=n))

    return estimates(
        duration=column(0.01, 100),
        reliability=column(0, 1),
        utilisation=column(0, 100),
        untried=draw(st.lists(st.booleans(), min_size=n, max_size=n)),
    )


def taught(policy, seed=0, clients=6, tasks=40):
    """A selector that has seen every client work; client i takes about i + 1 seconds."""
    selector, now = Selector(policy, random.Random(seed)), 0.0
    for turn in range(tasks):
        client = selector.choose([turn % clients], now)
        selector.ended(client, now + client + 1, delivered=turn % 7 > 0)
        now += client + 1.5
    return selector, now


@for_every_policy
@fast
@given(known())
def test_weights_are_probabilities(policy, known):
    weights = policy.weights(known)
    assert weights.shape == (len(known.clients),)
    assert np.all(weights >= 0)
    assert 0 < weights.sum() < math.inf


@for_every_policy
@fast
@given(known(), st.randoms(use_true_random=False))
def test_weights_follow_the_clients_into_any_order(policy, known, rng):
    order = list(range(len(known.clients)))
    rng.shuffle(order)
    shuffled = Estimates(
        clients=tuple(known.clients[place] for place in order),
        untried=known.untried[order],
        duration=known.duration[order],
        reliability=known.reliability[order],
        utilisation=known.utilisation[order],
    )
    assert policy.weights(shuffled).tolist() == policy.weights(known)[order].tolist()


def test_speed_weighs_by_the_inverse_duration():
    known = estimates(duration=[0.5, 1.0, 4.0])
    assert Speed().weights(known).tolist() == [2.0, 1.0, 0.25]
    assert Speed(exponent=2.0).weights(known).tolist() == [4.0, 1.0, 0.0625]


def test_load_aware_weighs_by_spare_time_down_to_the_floor():
    known = estimates(utilisation=[0.0, 35.0, 89.0, 90.0, 95.0, 100.0])
    assert LoadAware().weights(known).tolist() == [100.0, 65.0, 11.0, 10.0, 10.0, 10.0]


def test_bids_worked_out_by_hand():
    offers = bids(np.array([0.5, 1.0]), np.array([0.0, 1.0]), epsilon=0.1, weight=0.3)
    assert offers.tolist() == pytest.approx([1 / 0.6, 1 / 1.1 + 0.3])


def test_reliability_decides_an_auction_between_clients_of_about_the_same_speed():
    near = estimates(duration=[0.95, 1.0], reliability=[0.5, 1.0])
    far = estimates(duration=[0.6, 1.0], reliability=[0.5, 1.0])
    assert Auction().weights(near).tolist() == [0.0, 1.0]
    assert Auction().weights(far).tolist() == [1.0, 0.0]


@fast
@given(known())
def test_a_dominated_bid_never_wins(known):
    """Nobody wins against a client that is both faster and more reliable."""
    tried = replace(known, untried=np.zeros_like(known.untried))
    weights = Auction().weights(tried)
    for winner in np.flatnonzero(weights):
        better = (tried.duration < tried.duration[winner]) & (
            tried.reliability > tried.reliability[winner]
        )
        assert not better.any()


@for_every_policy
def test_untried_clients_come_first_unless_their_estimate_needs_no_trial(policy):
    weights = policy.weights(estimates(duration=[0.01, 1, 1], untried=[False, True, True]))
    if policy.name in ("speed", "auction"):
        assert weights.tolist() == [0.0, 1.0, 1.0]
    else:
        assert weights.tolist() == [weights[0]] * 3


@dataclass(frozen=True)
class Weighted:
    """A policy of one's own: caller's estimates instead of the history's."""

    given: tuple[float, ...]
    name: str = "weighted"

    def weights(self, known: Estimates) -> np.ndarray:
        return np.array([self.given[client] for client in known.clients])


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0, 1.0, 1.0), (4.0, 3.0, 2.0, 1.0), (0.0, 90.0, 10.0, 0.0)]
)
def test_weights_are_honoured_in_distribution(weights):
    draws = 20_000
    selector = Selector(Weighted(weights), random.Random(11))
    counts: Counter[int] = Counter()
    for now in range(draws):
        client = selector.choose(range(len(weights)), now)
        selector.ended(client, now, delivered=True)
        counts[client] += 1
    expected = [draws * weight / sum(weights) for weight in weights]
    assert all(counts[i] == 0 for i, mean in enumerate(expected) if mean == 0)
    chi_square = sum((counts[i] - mean) ** 2 / mean for i, mean in enumerate(expected) if mean)
    # The 99.9 % quantile of chi-square with 3 degrees of freedom; fewer only make it smaller.
    assert chi_square < 16.27


def test_the_callers_costs_can_be_auctioned():
    prices = {7: 3.0, 8: 0.5, 9: 0.4}

    @dataclass(frozen=True)
    class Priced:
        name: str = "priced"

        def weights(self, known: Estimates) -> np.ndarray:
            costs = np.array([prices[client] for client in known.clients])
            return highest(bids(costs, known.reliability))

    selector = Selector(Priced(), random.Random(0))
    assert selector.choose([7, 8], 0.0) == 8
    assert selector.choose([7, 9], 0.0) == 9


def test_equal_bids_are_drawn_evenly_and_repeatably():
    def winners(seed):
        selector, seen = Selector(Auction(), random.Random(seed)), []
        for now in range(300):
            seen.append(selector.choose([1, 2, 3], float(now)))
            selector.ended(seen[-1], now + 0.5, delivered=True)
        return seen

    assert winners(1) == winners(1) != winners(2)
    assert min(Counter(winners(1)).values()) > 70


def test_an_auction_with_a_place_for_one_starves_all_but_the_fastest():
    selector, now, counts = Selector(Auction(), random.Random(0)), 0.0, Counter()
    for _ in range(50):
        client = selector.choose(range(5), now)
        now += client + 1
        selector.ended(client, now, delivered=True)
        counts[client] += 1
    assert counts == {0: 46, 1: 1, 2: 1, 3: 1, 4: 1}


@for_every_policy
@fast
@given(st.integers(0, 2**32), st.permutations(list(range(6))))
def test_the_order_of_the_candidates_does_not_matter(policy, seed, order):
    one, now = taught(policy, seed)
    other, _ = taught(policy, seed)
    assert one.choose(range(6), now) == other.choose(order, now)


@for_every_policy
@fast
@given(st.integers(0, 2**32))
def test_a_restored_selector_continues_as_if_nothing_had_happened(policy, seed):
    one, now = taught(policy, seed)
    other = Selector(policy, random.Random())
    other.restore(json.loads(json.dumps(one.state())))

    def course(selector):
        chosen = []
        for turn in range(20):
            chosen.append(selector.choose(range(8), now + turn))
            selector.ended(chosen[-1], now + turn + 0.5, delivered=turn % 3 > 0)
        return chosen

    assert course(one) == course(other)


@pytest.mark.parametrize(
    "weights", [(0.0, 0.0), (math.nan, 1.0), (-1.0, 3.0), (math.inf, 1.0)], ids=str
)
def test_weights_that_are_no_probabilities_are_refused(weights):
    with pytest.raises(BadOption, match="finite weights"):
        Selector(Weighted(weights), random.Random(0)).choose([0, 1], 0.0)


def test_a_client_with_weight_zero_is_not_even_drawn_by_rounding():
    class AlmostOne(random.Random):
        def random(self):
            return 1.0 - 2.0**-53

    weights = (0.0, 1e-300, 1.0, 0.0)
    assert Selector(Weighted(weights), AlmostOne()).choose(range(4), 0.0) == 2


def test_policies_by_name():
    assert sorted(POLICIES) == ["auction", "load-aware", "speed", "uniform"]
    assert policy_from("auction", reliability=0.5) == Auction(reliability=0.5)
    assert selector_for(Uniform(), 0) is None
    assert selector_for(Speed(), 0) is not None


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(UnknownPolicy, match="auction, load-aware, speed, uniform"):
        policy_from("fastest")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("uniform", {"exponent": 1.0}),
        ("speed", {"exponent": -1.0}),
        ("load-aware", {"floor": 0.0}),
        ("auction", {"epsilon": 0.0}),
        ("auction", {"reliability": "much"}),
    ],
)
def test_bad_options_are_refused(name, options):
    with pytest.raises(StrategyError) as refused:
        policy_from(name, **options)
    assert refused.value.code == "BAD_OPTION"
