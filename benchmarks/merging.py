"""Merging a buffer against copying the same bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.timing import medians
from strategies.engine import Engine
from strategies.recipe import Recipe
from strategies.recipes.async_wa import AsyncWA
from strategies.recipes.fedbuff import FedBuff
from strategies.update import Accepted, ClientUpdate

_UPDATES, _PARAMS, _ROUNDS = 10, 1_000_000, 7


def measure() -> dict[str, float]:
    """Return the seconds of one merge of 10 x 1 M float32 and of a copy of its input."""
    source = np.random.default_rng(1).normal(size=(_UPDATES, _PARAMS)).astype(np.float32)
    target = np.empty_like(source)
    recipes: dict[str, Recipe] = {
        "fedbuff": FedBuff(buffer_size=_UPDATES),
        "async-wa": AsyncWA(buffer_size=_UPDATES, disjoint=True),
    }
    contenders: dict[str, Callable[[], object]] = {"memcpy": lambda: np.copyto(target, source)}
    engines = {name: Engine(recipe, source[0]) for name, recipe in recipes.items()}
    seconds = medians(contenders, _ROUNDS)
    for name, engine in engines.items():
        seconds[name] = _merge_seconds(engine, source)
    return {
        "memcpy_ms": 1e3 * seconds["memcpy"],
        **{f"{name}_ms": 1e3 * seconds[name] for name in engines},
        **{f"{name}_over_memcpy": seconds[name] / seconds["memcpy"] for name in engines},
    }


def _merge_seconds(engine: Engine, source: np.ndarray) -> float:
    seconds = []
    for merge in range(_ROUNDS + 1):
        for client in range(_UPDATES):
            row = engine.lease()
            np.copyto(row, source[client])
            update = ClientUpdate(str(client), engine.version, row, 100, f"{merge}-{client}")
            answer = engine.offer(update, 0.0)
            if not isinstance(answer, Accepted):
                raise RuntimeError(f"the benchmark's update was refused: {answer}")
        started = time.perf_counter()
        engine.merge(0.0)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])
