from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from strategies import (
    ACE,
    ACED,
    AREA,
    CA2FL,
    DCASGD,
    FADAS,
    Accepted,
    AsyncFedED,
    AsyncWA,
    ClientUpdate,
    Engine,
    FedAsync,
    FedAvg,
    FedBuff,
    FedStaleWeight,
    Merge,
    Recipe,
    Reject,
    Rejected,
    Ringleader,
    Ringmaster,
)

LINEAR: tuple[Recipe, ...] = (
    FedBuff(buffer_size=3),
    FedBuff(buffer_size=3, normalise="sum", server_momentum=0.9, published_rounds=2.0),
    FedAsync(),
    FedAsync(staleness="hinge", published_rounds=1.0),
    AsyncWA(buffer_size=3, adaptive=False),
    AsyncWA(buffer_size=3, max_age=1.0, max_clients=3, adaptive=False),
    AsyncWA(buffer_size=3, disjoint=True, adaptive=False),
    AsyncWA(buffer_size=3, adaptive=False, fitted_correction=True),
    AsyncWA(buffer_size=3, drift_correction=False, adaptive=False),
    AsyncWA(buffer_size=3, cache="bfloat16", max_clients=4, adaptive=False),
    AsyncWA(buffer_size=3, disjoint=True, cache="sketch", adaptive=False),
    FedBuff(buffer_size=3, robust="median"),
    FedBuff(buffer_size=3, robust="trusted-direction", trusted_client="c0"),
    CA2FL(buffer_size=3, robust="krum", attackers=0.4),
    AsyncWA(buffer_size=3, disjoint=True, adaptive=False, robust="trimmed-mean", attackers=0.4),
    FedAvg(buffer_size=3),
    CA2FL(buffer_size=3),
    CA2FL(buffer_size=3, cache="bfloat16"),
    CA2FL(buffer_size=3, max_age=1.0, published_rounds=2.0),
    ACE(),
    ACE(cache="sketch"),
    ACE(max_age=1.0, published_rounds=2.0),
    ACED(max_delay=3),
    AREA(),
    AREA(volume_exponent=0.5, max_age=1.0),
    Ringmaster(),
    Ringmaster(max_delay=3, published_rounds=2.0),
    Ringleader(),
    Ringleader(max_age=1.0),
    FedStaleWeight(buffer_size=3),
    AsyncFedED(),
)
"""Recipes whose model scales with the updates."""

SCALE_FREE: tuple[Recipe, ...] = (
    AsyncWA(buffer_size=3),
    AsyncWA(buffer_size=3, max_age=1.0, max_clients=3),
    AsyncWA(buffer_size=3, disjoint=True),
    AsyncWA(buffer_size=3, fitted_correction=True, cache="bfloat16"),
    AsyncWA(buffer_size=3, drift_correction=False),
    AsyncWA(buffer_size=3, disjoint=True, cache="bfloat16"),
)
"""Recipes whose model does not depend on the scale of the updates."""

EVERY_RECIPE: tuple[Recipe, ...] = (
    *LINEAR,
    *SCALE_FREE,
    FADAS(buffer_size=3),
    FADAS(buffer_size=3, server_lr=1.0, delay_threshold=1),
    DCASGD(),
    DCASGD(adaptive=False, strength=0.5, server_lr=1.0),
)

SIZE = 5
"""Parameters of the models that `random_updates` are for."""

seeds = st.integers(0, 2**32 - 1)
fast = settings(max_examples=25, deadline=None)
for_every_recipe = pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=repr)

_ids = count()


def vector(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def engine_of(recipe: Recipe, *values: float, **options: Any) -> Engine:
    return Engine(recipe, vector(*(values or (0.0,))), **options)


def update(
    delta: Sequence[float] | np.ndarray,
    *,
    client: str = "a",
    base: int = 0,
    examples: int = 1,
    id: str | None = None,
) -> ClientUpdate:
    name = id or f"update-{next(_ids)}"
    return ClientUpdate(client, base, np.asarray(delta, np.float32), examples, name)


def accept(engine: Engine, *updates: ClientUpdate) -> Merge | None:
    """Offer updates that must be accepted; return the last merge they caused."""
    merge = None
    for each in updates:
        answer = engine.offer(each, 0.0)
        assert isinstance(answer, Accepted), answer
        if engine.ready(0.0):
            merge = engine.merge(0.0)
    return merge


def merge_of(engine: Engine, *updates: ClientUpdate) -> Merge:
    merge = accept(engine, *updates)
    assert merge is not None
    return merge


def refusal(engine: Engine, offered: ClientUpdate) -> Reject:
    answer = engine.offer(offered, 0.0)
    assert isinstance(answer, Rejected), answer
    return answer.code


def advance(engine: Engine, versions: int) -> None:
    """Release versions that leave the model where it is."""
    size = engine.params.size
    goal = engine.version + versions
    while engine.version < goal:
        fresh = update(np.zeros(size), client=f"idle-{next(_ids)}", base=engine.version)
        accept(engine, fresh)


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            assert value.tobytes() == other[key].tobytes(), key
        else:
            assert value == other[key], key


def random_updates(
    seed: int, number: int, clients: int = 6, scale: float = 1.0
) -> list[tuple[str, int, np.ndarray, int, str]]:
    """Updates of clients that each fetch the newest version they may know of."""
    rng = np.random.default_rng(seed)
    updates = []
    for turn in range(number):
        client, examples = f"c{rng.integers(clients)}", int(rng.integers(1, 1000))
        delta = scale * rng.normal(size=SIZE)
        lag = int(rng.integers(3))
        updates.append((client, lag, delta.astype(np.float32), examples, f"{seed}-{turn}"))
    return updates


def run(
    engine: Engine, updates: Sequence[tuple[str, int, np.ndarray, int, str]]
) -> list[tuple[Any, ...]]:
    """Feed updates; refusals (duplicates) are part of the run. Return all released bytes."""
    released = []
    for turn, (client, lag, delta, examples, name) in enumerate(updates):
        base = max(0, engine.version - lag)
        engine.offer(update(delta, client=client, base=base, examples=examples, id=name), turn)
        if engine.ready(turn):
            merge = engine.merge(turn)
            released.append((merge.digest, merge.weights, engine.published.tobytes()))
    return released
