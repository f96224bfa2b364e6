"""No released update can be solved for, whoever colludes, when leverage is bounded.

The real engine runs on unit vectors, so that the differences of its models are the public
coefficients; everything is judged over the whole run, whatever horizon the engine looked at.
"""

from functools import cache
from itertools import combinations

import numpy as np
import pytest

from experiments.observer import Aggregates, confidential_recipes, observe
from strategies import FADAS, AsyncWA, Engine, LeakyRecipe, ReleaseRule, recipe_from
from strategies.catalog import RECIPES
from strategies.leverage import leverage
from strategies.server_optimiser import ServerSgd
from tests.strategies.helpers import accept, engine_of, update

BOUND = 0.8
# What the horizon leaves out of the leverage, see docs/experiments/leverage.md.
SLACK = 0.02
FLEETS = {20: (5, 60), 60: (10, 30)}
"""By clients: k and how many releases."""

VARIANTS = {
    "fedbuff with momentum": ("fedbuff", {"server_momentum": 0.9, "published_rounds": 2.0}),
    "fedbuff by sum": ("fedbuff", {"normalise": "sum", "staleness_exponent": 1.0}),
    "ca2fl that forgets": ("ca2fl", {"max_age": 1.0, "published_rounds": 2.0}),
    "async-wa with a small cache": ("async-wa", {"disjoint": True, "max_clients": 15}),
    "async-wa without cache": ("async-wa", {"disjoint": True, "drift_correction": False}),
    "async-wa by age": ("async-wa", {"disjoint": True, "staleness_exponent": 1.0}),
    "async-wa by volume": ("async-wa", {"disjoint": True, "volume_exponent": 0.5}),
}
SMALL_FLEETS = {10: 3, 12: 4}
"""By clients: k. Small enough to try all coalitions."""


def recipe_named(name, k):
    if name in VARIANTS:
        base, options = VARIANTS[name]
        return recipe_from(base, buffer_size=k, **options)
    return confidential_recipes(k)[name]


ALLOWED = [*confidential_recipes(5), *VARIANTS]
for_every_allowed_recipe = pytest.mark.parametrize("name", ALLOWED)
for_every_fleet = pytest.mark.parametrize("clients", FLEETS)


def linear(recipe):
    """The recipe, or where its step is not linear what its models are a function of: see below."""
    plain = isinstance(recipe.parts().server, ServerSgd)
    return recipe if plain else Aggregates(recipe)


@cache
def run(name, clients, bound=BOUND):
    k, releases = FLEETS[clients]
    recipe = recipe_named(name, k)
    rule = ReleaseRule(k, max_leverage=bound)
    return observe(linear(recipe), clients, releases, rule=rule, seed=1, spread=0.5)


def coalitions(observed, clients, size):
    rng = np.random.default_rng(0)
    yield "nobody", ()
    yield "fastest", observed.fastest[:size]
    yield "slowest", observed.fastest[-size:]
    yield "every other", observed.fastest[: 2 * size : 2]
    for turn in range(10):
        yield f"random {turn}", rng.choice(clients, size, replace=False)


def test_every_recipe_of_the_catalogue_is_proved_or_refused():
    refused = {name for name in RECIPES if not recipe_from(name).disjoint}
    for name in refused:
        with pytest.raises(LeakyRecipe):
            engine_of(recipe_from(name), release_rule=ReleaseRule(k=2, max_leverage=BOUND))

    assert refused | set(confidential_recipes(5)) == set(RECIPES)


@for_every_fleet
@for_every_allowed_recipe
def test_no_coalition_of_k_minus_1_can_solve_for_an_update(name, clients):
    k, releases = FLEETS[clients]
    observed = run(name, clients)

    assert len(observed.sizes) == releases
    assert min(observed.sizes) >= k
    for who, coalition in coalitions(observed, clients, k - 1):
        assert observed.leverage(coalition).max() <= BOUND + SLACK, who
    assert observed.worst(k - 1) <= BOUND + SLACK


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
@for_every_allowed_recipe
def test_not_one_of_all_coalitions_knows_more_than_the_bound(name, spread):
    releases = 0
    for clients, k in SMALL_FLEETS.items():
        for seed in range(1, 4):
            rule = ReleaseRule(k, max_leverage=BOUND)
            recipe = linear(recipe_named(name, k))
            observed = observe(recipe, clients, 12, rule=rule, seed=seed, spread=spread)
            releases += len(observed.sizes)
            for coalition in combinations(range(clients), k - 1):
                known = observed.leverage(coalition).max(initial=0.0)
                assert known <= BOUND + SLACK, (clients, seed)
    # what stands still gives nothing away, and would prove nothing
    assert releases > 20 or (name == "fedavg" and spread == 2.0)


def largest_of_combinations(observed, coalition):
    """Largest leverage of any combination of one client's updates."""
    honest = ~np.isin(observed.senders, coalition)
    _, singular, basis = np.linalg.svd(observed.coefficients[:, honest], full_matrices=False)
    basis, senders = basis[singular > 1e-5 * singular[0]], observed.senders[honest]
    return max(
        float(np.linalg.norm(basis[:, senders == sender], 2)) ** 2 for sender in set(senders)
    )


@pytest.mark.parametrize("name", ["fedbuff", "ca2fl", "async-wa"])
def test_no_coalition_knows_how_two_updates_of_a_client_differ(name):
    clients, k = 8, 3
    rule = ReleaseRule(k, max_leverage=BOUND)
    observed = observe(linear(recipe_named(name, k)), clients, 12, rule=rule, seed=1, spread=0.5)

    assert len(observed.sizes) == 12
    for coalition in combinations(range(clients), k - 1):
        assert largest_of_combinations(observed, coalition) < 0.95


@for_every_allowed_recipe
def test_an_update_that_can_be_hidden_is_hidden_by_changes_no_release_shows(name):
    # what leverage below 1 means: the same releases with another value of the update
    observed = run(name, 20)
    honest = ~np.isin(observed.senders, observed.fastest[:4])
    matrix = observed.coefficients[:, honest]
    target = int(np.argmax(observed.leverage(observed.fastest[:4])))
    wanted = np.eye(matrix.shape[1])[target]

    hidden = wanted - np.linalg.pinv(matrix, rcond=1e-4) @ (matrix @ wanted)

    assert np.abs(matrix @ hidden).max() < 1e-3 * np.abs(matrix[:, target]).max()
    assert hidden[target] > 0.05


@pytest.mark.parametrize("name", ["fedbuff", "ca2fl", "async-wa", "fedstaleweight"])
def test_without_the_bound_k_minus_1_clients_solve_for_others(name):
    assert run(name, 20, bound=None).worst(4) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", ["fedasync", "async-wa", "ace", "ringmaster"])
def test_same_machinery_recovers_every_update_from_overlapping_releases(name):
    observed = observe(linear(recipe_from(name)), 20, 40, most_updates=40)

    recovered = np.linalg.pinv(observed.coefficients) @ observed.coefficients

    assert len(observed.sizes) == 40
    np.testing.assert_allclose(recovered, np.eye(40), atol=1e-2)


@for_every_allowed_recipe
def test_published_mean_tells_no_more_than_the_models(name):
    observed = run(name, 20)
    for coalition in ((), observed.fastest[:4]):
        honest = ~np.isin(observed.senders, coalition)
        published = leverage(observed.published[:, honest])

        assert (published <= observed.leverage(coalition) + 1e-3).all()


@pytest.mark.parametrize(
    "recipe",
    [FADAS(3, server_lr=0.1, delay_threshold=None), AsyncWA(3, disjoint=True)],
    ids=["amsgrad", "rms"],
)
def test_models_of_an_adaptive_step_are_a_function_of_the_aggregates(recipe):
    # the proof takes the aggregates as released: from them alone every model follows exactly
    rng = np.random.default_rng(0)
    model = rng.normal(size=6).astype(np.float32)
    engine, twin = Engine(recipe, model), Engine(Aggregates(recipe), np.zeros_like(model))
    server = recipe.parts().server
    moments = server.initial(6)
    for turn in range(30):
        sent = update(rng.normal(size=6), client=f"c{turn}", base=engine.version)
        before = twin.params
        merge, summed = accept(engine, sent), accept(twin, sent)
        if merge is None or summed is None:
            continue
        after = np.empty_like(model)
        size = server.size(engine.version, 0, moments)
        if recipe.parts().gain is not None:
            share = recipe.parts().gain.share(3, engine.population.round_uploads())
            size = size._replace(rate=size.rate * share)
        server.step(model, summed.params - before, moments, after, size)
        model = after
        np.testing.assert_allclose(merge.params, model, rtol=1e-4, atol=1e-5)
    assert engine.version == 10


def test_leverage_of_plain_buffers_does_not_depend_on_their_number():
    rule = ReleaseRule(5, max_leverage=BOUND)
    for releases in (10, 80):
        observed = observe(confidential_recipes(5)["fedavg"], 40, releases, rule=rule, spread=0.0)
        assert observed.worst(4) == pytest.approx(0.5, abs=1e-4)
