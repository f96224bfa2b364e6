"""Overlapping windows can be solved for single updates, disjoint buffers cannot.

Every update is a unit vector, so the differences of successive models *are* the public
coefficients of all updates.
"""

import numpy as np
import pytest

from experiments.observer import observe
from strategies import (
    ACE,
    ACED,
    AREA,
    CA2FL,
    Accepted,
    AsyncWA,
    Engine,
    FedAsync,
    FedAvg,
    FedBuff,
    FedStaleWeight,
    Limits,
    Rejected,
    ReleaseRule,
    Ringmaster,
)
from strategies.leverage import leverage
from strategies.reject import Reject
from tests.strategies.helpers import accept, update

UPDATES = 60
K = 5


def released_coefficients(recipe, clients, rule=None):
    """Run clients in random order; return the models' differences, one row per release."""
    rng = np.random.default_rng(3)
    engine = Engine(
        recipe,
        np.zeros(UPDATES, np.float32),
        limits=Limits(max_staleness=1000),
        release_rule=rule,
    )
    basis = np.eye(UPDATES, dtype=np.float32)
    idle, models, senders = [], [engine.params], []
    for delta in basis:
        idle = idle or [str(index) for index in rng.permutation(clients)]
        senders.append(idle.pop())
        merge = accept(engine, update(delta, client=senders[-1], base=engine.version))
        if merge is not None:
            models.append(merge.params)
    return np.diff(np.array(models), axis=0), senders


@pytest.mark.parametrize(
    "recipe",
    [
        FedAsync(),
        AsyncWA(buffer_size=K, drift_correction=False),
        AsyncWA(buffer_size=K),
        ACE(server_lr=1.0),
        ACED(server_lr=1.0, max_delay=10),
        AREA(),
        Ringmaster(server_lr=1.0),
    ],
    ids=repr,
)
def test_every_update_can_be_solved_for_from_overlapping_releases(recipe):
    coefficients, _ = released_coefficients(recipe, clients=20)

    recovered = np.linalg.lstsq(coefficients, coefficients, rcond=None)[0]

    assert np.linalg.matrix_rank(coefficients) == UPDATES
    np.testing.assert_allclose(leverage(coefficients), 1.0, atol=1e-3)
    np.testing.assert_allclose(recovered, np.eye(UPDATES), atol=1e-3)


@pytest.mark.parametrize(
    "recipe",
    [
        FedBuff(buffer_size=K),
        AsyncWA(buffer_size=K, disjoint=True),
        FedAvg(buffer_size=K),
        CA2FL(buffer_size=K),
        FedStaleWeight(buffer_size=K),
    ],
    ids=repr,
)
def test_no_update_can_be_solved_for_from_disjoint_buffers(recipe):
    coefficients, _ = released_coefficients(recipe, clients=20, rule=ReleaseRule(k=K))

    assert coefficients.shape == (UPDATES // K, UPDATES)
    assert leverage(coefficients).max() < 0.5


def test_plain_buffer_hides_an_update_behind_its_k_minus_1_neighbours_exactly():
    coefficients, _ = released_coefficients(FedBuff(buffer_size=K), 20, ReleaseRule(k=K))

    np.testing.assert_allclose(leverage(coefficients), 1 / K, rtol=1e-5)


def test_every_update_is_in_exactly_one_plain_buffer():
    coefficients, _ = released_coefficients(FedBuff(buffer_size=K), 20, ReleaseRule(k=K))

    assert (np.count_nonzero(coefficients, axis=0) == 1).all()
    assert (np.count_nonzero(coefficients, axis=1) == K).all()


def test_cached_deltas_strengthen_disjoint_buffers_on_a_fleet_of_unequal_speeds():
    rule = ReleaseRule(k=10)
    plain = observe(FedBuff(10), clients=60, releases=20, rule=rule)
    cached = observe(AsyncWA(10, disjoint=True), clients=60, releases=20, rule=rule)

    assert cached.leverage().max() < plain.leverage().max() < 0.5
    fastest = plain.fastest[:9]
    assert cached.leverage(fastest).max() < plain.leverage(fastest).max() < 1.0


def test_first_buffer_gives_the_honest_client_away_when_all_others_in_it_collude():
    # the limit of any rule with public weights: caching starts from nothing
    for recipe in (FedBuff(K), AsyncWA(K, disjoint=True)):
        coefficients, _ = released_coefficients(recipe, 20, ReleaseRule(k=K))

        honest = np.delete(coefficients, range(K - 1), axis=1)

        assert leverage(honest)[0] == pytest.approx(1.0, abs=1e-6)


HUGE = np.float32(2.0**20)


@pytest.mark.parametrize(
    "recipe",
    [FedBuff(6), FedAvg(6), CA2FL(6), FedStaleWeight(6), AsyncWA(6, disjoint=True)],
    ids=repr,
)
def test_two_clients_with_huge_values_cannot_leave_an_update_alone_in_the_sum(recipe):
    """In float32, whatever comes between huge values of opposite sign is lost to rounding."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(4, UPDATES)).astype(np.float32)

    def model(huge):
        engine = Engine(recipe, np.zeros(UPDATES, np.float32), release_rule=ReleaseRule(k=6))
        colluders = np.full((2, UPDATES), huge, np.float32) * [[1], [-1]]
        deltas = [colluders[0], *honest[:3], colluders[1], honest[3]]
        sent = [update(delta, client=str(index)) for index, delta in enumerate(deltas)]
        return accept(engine, *sent).params

    np.testing.assert_allclose(model(HUGE), model(0.0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("recipe", [CA2FL(K), AsyncWA(K, disjoint=True)], ids=repr)
def test_a_huge_delta_that_comes_and_goes_leaves_the_cached_mean_as_it_was(recipe):
    """In float32 it takes everyone's cached delta along, behind whom the next buffer hides."""
    rng = np.random.default_rng(0)
    engine = Engine(recipe, np.zeros(UPDATES, np.float32), release_rule=ReleaseRule(k=K))
    clients = [str(index) for index in range(4 * K)]
    for huge in (0.0, HUGE, 0.0):
        for client in clients:
            delta = rng.normal(size=UPDATES).astype(np.float32)
            delta[:] = huge if client == "0" else delta
            accept(engine, update(delta, client=client, base=engine.version))

    held = sum(entry.used * entry.row.astype(float) for entry in engine.cache.entries.values())
    np.testing.assert_allclose(engine.cache.total, held, rtol=1e-5, atol=1e-5)


def test_a_release_rule_refuses_norms_beside_which_sums_forget_the_others():
    for rule, most in ((ReleaseRule(k=K), 2.0**24), (None, 2.0**100)):
        engine = Engine(FedBuff(K), np.zeros(1, np.float32), release_rule=rule)
        within, beyond = (
            engine.offer(update(np.float32([most * factor]), client=client), 0.0)
            for client, factor in (("a", 1), ("b", 1.1))
        )
        assert within == Accepted(staleness=0, pending=1)
        assert isinstance(beyond, Rejected) and beyond.code is Reject.NORM_TOO_LARGE
