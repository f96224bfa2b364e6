"""The memory every recipe states in its docstring, counted."""

import tracemalloc

import numpy as np
import pytest

from strategies import (
    ACE,
    ACED,
    AREA,
    CA2FL,
    DCASGD,
    FADAS,
    AsyncFedED,
    AsyncWA,
    Engine,
    FedAsync,
    FedAvg,
    FedBuff,
    FedStaleWeight,
    Limits,
    Ringleader,
    Ringmaster,
)
from strategies.catalog import RECIPES
from tests.strategies.helpers import accept, update

SIZE, CLIENTS, MAX_STALENESS, K = 1 << 18, 7, 5, 3
# What an engine needs whatever the size of the model: two blocks of columns.
BLOCKS = 2 * 65536 / SIZE

STATED = [
    (ACE(), CLIENTS + 3),
    (ACED(), CLIENTS + 3),
    (ACED(max_delay=3), 4 + 3),
    (AREA(), CLIENTS + MAX_STALENESS + 4),
    (AsyncWA(K), K + CLIENTS + 8),
    (AsyncWA(K, self_tuning=False), K + CLIENTS + 5),
    (AsyncWA(K, fitted_correction=True), K + CLIENTS + 8),
    (AsyncWA(K, disjoint=True), K + CLIENTS + 4),
    (AsyncWA(K, published_rounds=0.0), K + CLIENTS + 7),
    (AsyncWA(K, drift_correction=False), K + 7),
    (AsyncWA(K, adaptive=False), K + CLIENTS + 4),
    (AsyncFedED(), MAX_STALENESS + 2),
    (CA2FL(K), K + CLIENTS + 2),
    (DCASGD(), MAX_STALENESS + 3),
    (DCASGD(adaptive=False), MAX_STALENESS + 2),
    (FADAS(K), K + 4),
    (FedAsync(), MAX_STALENESS + 2),
    (FedAsync(published_rounds=1.0), MAX_STALENESS + 3),
    (FedAvg(K), K + 1),
    (FedAvg(K, server_momentum=0.9), K + 2),
    (FedBuff(K), K + 1),
    (FedBuff(K, server_momentum=0.9, published_rounds=1.0), K + 3),
    (FedStaleWeight(K), K + 1),
    (Ringmaster(), 3),
]


IN_TURN = [f"c{turn % CLIENTS}" for turn in range(6 * CLIENTS)]


def models_held(recipe, clients=IN_TURN):
    """Run clients in an order; return memory beside the model, in models of float32."""
    delta = np.full(SIZE, 1e-3, np.float32)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        engine = Engine(
            recipe, np.zeros(SIZE, np.float32), limits=Limits(max_staleness=MAX_STALENESS)
        )
        for client in clients:
            accept(engine, update(delta, client=client, base=engine.version))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return held / (4 * SIZE) - 1 - BLOCKS


@pytest.mark.parametrize("kind", RECIPES.values(), ids=RECIPES)
def test_the_published_mean_is_one_more_model(kind):
    options = {"buffer_size": K} if "buffer_size" in kind.__dataclass_fields__ else {}
    with_mean, without = (
        models_held(kind(published_rounds=rounds, **options)) for rounds in (1.0, 0.0)
    )
    assert with_mean - without == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("recipe", "stated"), STATED, ids=repr)
def test_memory_is_what_the_recipe_states(recipe, stated):
    assert models_held(recipe) == pytest.approx(stated, abs=0.05)


def test_ringleader_holds_at_most_two_tables():
    # Everyone but the last client has sent twice: it is due, and the others wait in the next table.
    order = [f"c{i}" for i in range(CLIENTS)] + [f"c{i}" for i in range(CLIENTS - 1)] * 2

    assert models_held(Ringleader(), order) == pytest.approx(2 * CLIENTS - 1 + 4, abs=0.05)


def test_no_recipe_is_left_out():
    counted = {recipe.name for recipe, _ in STATED} | {Ringleader.name}
    assert counted == set(RECIPES)
