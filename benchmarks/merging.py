"""Merging a buffer against copying the same bytes."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict

import numpy as np

from strategies.engine import Engine
from strategies.guard import HORIZON
from strategies.recipe import Recipe
from strategies.recipes.async_wa import AsyncWA
from strategies.recipes.fedbuff import FedBuff
from strategies.release import ReleaseRule
from strategies.update import Accepted, ClientUpdate

_UPDATES, _PARAMS, _ROUNDS = 10, 1_000_000, 15
_BOUND = ReleaseRule(k=_UPDATES // 2, max_leverage=0.99)
_CASES: dict[str, tuple[Recipe, ReleaseRule | None]] = {
    "fedbuff": (FedBuff(buffer_size=_UPDATES), None),
    "async-wa": (AsyncWA(buffer_size=_UPDATES, disjoint=True), None),
    "async-wa_bounded": (AsyncWA(buffer_size=_UPDATES, disjoint=True), _BOUND),
    "async-wa_bfloat16": (
        AsyncWA(buffer_size=_UPDATES, disjoint=True, cache="bfloat16"),
        None,
    ),
    "async-wa_sketch": (AsyncWA(buffer_size=_UPDATES, disjoint=True, cache="sketch"), None),
}


def measure() -> dict[str, float]:
    """Return the milliseconds of a merge of 10 x 1 M float32 and of a copy of its input.

    Copy and merges take turns, so that noise hits them alike; medians, the first round left out.
    The bounded merge judges the leverage of a whole horizon of releases as well.
    """
    source = np.random.default_rng(1).normal(size=(_UPDATES, _PARAMS)).astype(np.float32)
    target = np.empty_like(source)
    engines = {
        name: Engine(recipe, source[0], release_rule=rule)
        for name, (recipe, rule) in _CASES.items()
    }
    for _ in range(HORIZON):
        _fill(engines["async-wa_bounded"], source)
        engines["async-wa_bounded"].merge(0.0)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds["memcpy"].append(time.perf_counter() - started)
        for name, engine in engines.items():
            _fill(engine, source)
            started = time.perf_counter()
            engine.merge(0.0)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        **{f"{name}_ms": 1e3 * value for name, value in medians.items()},
        **{f"{name}_over_memcpy": medians[name] / medians["memcpy"] for name in engines},
    }


def _fill(engine: Engine, source: np.ndarray) -> None:
    for client, delta in enumerate(source):
        row = engine.lease()
        np.copyto(row, delta)
        update_id = f"{engine.version}-{client}"
        update = ClientUpdate(str(client), engine.version, row, 100, update_id)
        answer = engine.offer(update, 0.0)
        if not isinstance(answer, Accepted):
            raise RuntimeError(f"the benchmark's update was refused: {answer}")


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
