"""Saving an engine's state and continuing from it bit by bit."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, Any

import numpy as np

from strategies.aggregators import Arrays, Shapes
from strategies.batch import Pending
from strategies.drift import CachedDelta
from strategies.errors import BadState
from strategies.update import frozen

if TYPE_CHECKING:
    from strategies.engine import Engine

_FORMAT = 3


def write_snapshot(engine: Engine) -> dict[str, Any]:
    """Return an engine's state.

    Parameters
    ----------
    engine : Engine
        The engine.

    Returns
    -------
    dict
        Independent copies of the arrays by name, and ``"meta"``: a JSON string.
    """
    meta: dict[str, Any] = {
        **_configuration(engine),
        "version": engine.version,
        "first_version": engine.ledger.first_version,
        "merges": engine.merges,
        "opened_at": engine.opened_at,
        "waiting": [astuple(update) for update in engine.waiting],
        "population": engine.population.state(),
        "ledger": engine.ledger.state(),
        "models": list(engine.models),
    }
    arrays: dict[str, Any] = {"params": engine.params, "rows": np.array(engine.slab.take())}
    if engine.models:
        arrays["models"] = np.stack(list(engine.models.values()))
    if engine.momentum is not None:
        arrays["momentum"] = engine.momentum.copy()
    if engine.mean is not None:
        arrays["mean"] = engine.mean.copy()
    meta["aggregator"], own = engine.aggregator.state()
    arrays |= own
    if engine.cache is not None:
        entries = engine.cache.entries
        meta["cache"] = [[c, e.volume, e.used] for c, e in entries.items()]
        meta["cache_weight"] = engine.cache.weight
        rows = [entry.row for entry in entries.values()]
        arrays["cache"] = np.array(rows, np.float32).reshape(len(rows), engine.params.size)
        arrays["cache_total"] = engine.cache.total.copy()
    if engine.guard is not None:
        meta["guard"] = engine.guard.state()
    return {**arrays, "meta": json.dumps(meta)}


def read_snapshot(engine: Engine, state: dict[str, Any]) -> None:
    """Put a saved state into an engine of the same configuration.

    Parameters
    ----------
    engine : Engine
        The engine to overwrite.
    state : dict
        What :func:`write_snapshot` returned.

    Raises
    ------
    BadState
        The state is incomplete or of another configuration; the engine is unchanged.
    """
    try:
        meta = json.loads(state["meta"])
        _check_configuration(engine, meta)
        arrays = _checked_arrays(engine, meta, state)
        waiting = [Pending(*row) for row in meta["waiting"]]
        entries = {
            client: CachedDelta(row.copy(), volume, used)
            for (client, volume, used), row in zip(
                meta.get("cache", []), arrays.get("cache", ()), strict=True
            )
        }
        _assign(engine, meta, arrays, waiting, entries)
    except (KeyError, TypeError, ValueError) as error:
        raise BadState("The saved state is incomplete or damaged.") from error


def _configuration(engine: Engine) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "recipe": engine.recipe.name,
        "options": engine.recipe.options(),
        "limits": asdict(engine.limits),
        "rule": None if engine.rule is None else asdict(engine.rule),
    }


def _check_configuration(engine: Engine, meta: dict[str, Any]) -> None:
    for key, value in _configuration(engine).items():
        if meta[key] != value:
            raise BadState(f"The saved state belongs to an engine with another {key}.")


def _checked_arrays(engine: Engine, meta: dict[str, Any], state: dict[str, Any]) -> Arrays:
    # Row counts are tied to the metadata before anything is assigned, so that a damaged state
    # is refused as a whole.
    size = engine.params.size
    shapes: Shapes = {"params": (size,), "rows": (len(meta["waiting"]), size)}
    if engine.models:
        shapes["models"] = (len(meta["models"]), size)
    if engine.momentum is not None:
        shapes["momentum"] = engine.momentum.shape
    if engine.mean is not None:
        shapes["mean"] = (size,)
    shapes |= engine.aggregator.shapes(meta["aggregator"], size)
    if engine.cache is not None:
        shapes |= {"cache": (len(meta["cache"]), size), "cache_total": (size,)}
    arrays = {name: np.asarray(state[name]) for name in shapes}
    for name, shape in shapes.items():
        if arrays[name].dtype != np.float32 or arrays[name].shape != shape:
            raise BadState(f"The saved array {name!r} does not fit this engine.")
    if shapes["rows"][0] > engine.slab.capacity:
        raise BadState("The saved state holds more updates than the buffer.")
    return arrays


def _assign(
    engine: Engine,
    meta: dict[str, Any],
    arrays: Arrays,
    waiting: list[Pending],
    entries: dict[str, CachedDelta],
) -> None:
    params = frozen(arrays["params"].copy())
    engine.population.restore(**meta["population"])
    if engine.guard is not None:
        engine.guard.restore(**meta["guard"])
    engine.ledger.restore(meta["first_version"], meta["ledger"])
    engine.params, engine.waiting = params, waiting
    engine.version, engine.merges = meta["version"], meta["merges"]
    engine.opened_at = meta["opened_at"]
    engine.slab.clear()
    for row in arrays["rows"]:
        engine.slab.store(row)
    if engine.models:
        engine.models = dict(zip(meta["models"], arrays["models"].copy(), strict=True))
        engine.models[engine.version] = params
    engine.momentum = arrays["momentum"].copy() if "momentum" in arrays else None
    engine.mean = arrays["mean"].copy() if "mean" in arrays else None
    engine.aggregator.restore(meta["aggregator"], arrays)
    if engine.cache is not None:
        engine.cache.entries, engine.cache.weight = entries, meta["cache_weight"]
        np.copyto(engine.cache.total, arrays["cache_total"])
