"""Overlapping windows can be solved for single updates, disjoint buffers cannot.

Every update is a unit vector, so the differences of successive models *are* the public
coefficients of all updates.
"""

import heapq

import numpy as np
import pytest

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
    ReleaseRule,
    Ringmaster,
)
from tests.strategies.helpers import accept, update
from tests.strategies.leverage import leverage

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


def lognormal_fleet(recipe, clients, k, seed):
    """Leverage of all updates, and of the others' once the k - 1 fastest clients collude."""
    rng = np.random.default_rng(seed)
    speeds = rng.lognormal(sigma=1.2, size=clients)
    engine = Engine(
        recipe,
        np.zeros(200, np.float32),
        limits=Limits(max_staleness=1000),
        release_rule=ReleaseRule(k=k),
    )
    tasks = [(speed * rng.exponential(), index, 0) for index, speed in enumerate(speeds)]
    heapq.heapify(tasks)
    models, senders = [engine.params], []
    for delta in np.eye(200, dtype=np.float32):
        accepted = False
        while not accepted:
            done, client, base = heapq.heappop(tasks)
            answer = engine.offer(update(delta, client=str(client), base=base), 0.0)
            accepted = isinstance(answer, Accepted)
            if engine.ready(0.0):
                models.append(engine.merge(0.0).params)
            again = done + speeds[client] * rng.exponential()
            heapq.heappush(tasks, (again, client, engine.version))
        senders.append(client)
    coefficients = np.diff(np.array(models), axis=0)
    honest = ~np.isin(senders, np.argsort(speeds)[: k - 1])
    return leverage(coefficients).max(), leverage(coefficients[:, honest]).max()


def test_cached_deltas_strengthen_disjoint_buffers_on_a_fleet_of_unequal_speeds():
    plain, plain_colluding = lognormal_fleet(FedBuff(10), clients=60, k=10, seed=0)
    recipe = AsyncWA(10, disjoint=True)

    cached, cached_colluding = lognormal_fleet(recipe, clients=60, k=10, seed=0)

    assert cached < plain < 0.5
    assert cached_colluding < plain_colluding < 1.0


def test_first_buffer_gives_the_honest_client_away_when_all_others_in_it_collude():
    # the limit of any rule with public weights: caching starts from nothing
    for recipe in (FedBuff(K), AsyncWA(K, disjoint=True)):
        coefficients, _ = released_coefficients(recipe, 20, ReleaseRule(k=K))

        honest = np.delete(coefficients, range(K - 1), axis=1)

        assert leverage(honest)[0] == pytest.approx(1.0, abs=1e-6)


def test_leverage_by_hand():
    np.testing.assert_allclose(leverage([[1, 1, 0], [0, 0, 2]]), [0.5, 0.5, 1.0])
    np.testing.assert_allclose(leverage([[1, 1, 1], [1, 1, 0]]), [0.5, 0.5, 1.0])
    np.testing.assert_allclose(leverage([[0, 0]]), [0.0, 0.0])
