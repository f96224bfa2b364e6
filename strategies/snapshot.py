"""Saving an engine's state and continuing from it bit by bit."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import asdict
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from strategies.aggregators import Arrays, Shapes
from strategies.batch import Pending
from strategies.errors import BadState
from strategies.gain_tuner import tuner_for
from strategies.guard import guard_for
from strategies.privacy.budget import Budget
from strategies.roles import Roles
from strategies.update import frozen

if TYPE_CHECKING:
    from strategies.engine import Engine

_FORMAT = 3
# Not the moments: an infinite one stops its coordinate, and that is how it is meant.
_FINITE = ("params", "rows", "models", "mean")


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
        "opened_at": float(engine.opened_at),
        "waiting": [list(update) for update in engine.waiting],
        "population": engine.population.state(),
        "ledger": engine.ledger.state(),
        "models": list(engine.models),
        "roles": asdict(engine.step.roles),
    }
    arrays: dict[str, Any] = {"params": engine.params, "rows": np.array(engine.slab.take())}
    if engine.models:
        arrays["models"] = np.stack(list(engine.models.values()))
    if engine.step.moments is not None:
        arrays["momentum"] = engine.step.moments.copy()
    if engine.step.mean is not None:
        arrays["mean"] = engine.step.mean.copy()
    if engine.step.tuner is not None:
        meta["gain"], own = engine.step.tuner.state()
        arrays |= own
    meta["aggregator"], own = engine.aggregator.state()
    arrays |= own
    if engine.cache is not None:
        meta["cache"], own = engine.cache.state()
        arrays |= own
    if engine.guard is not None:
        meta["guard"] = engine.guard.state()
    if engine.budget is not None:
        meta["spent"] = dict(engine.budget.spent)
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
        The state is incomplete, of another configuration, or holds models or updates that are not
        finite; the engine is unchanged.
    """
    try:
        meta = json.loads(state["meta"])
        _check_configuration(engine, meta)
        arrays = _checked_arrays(engine, meta, state)
        versions = list(meta["models"])
        waiting = [Pending(*row) for row in meta["waiting"]]
        version, merges = index(meta["version"]), index(meta["merges"])
        opened_at = float(meta["opened_at"])
        # Copies, so that data that turn out to be damaged leave the engine's own as they are.
        population, ledger = copy(engine.population), copy(engine.ledger)
        # What made the state goes on making it, whatever is known of the model by now.
        roles = Roles.restored(meta.get("roles", {}), engine.params.size)
        guard = guard_for(engine.rule, engine.parts, engine.cache)
        aggregator = engine.new_aggregator(roles)
        tuner = tuner_for(engine.parts, engine.params)
        population.restore(**meta["population"])
        if guard is not None:
            guard.restore(**meta["guard"])
        if tuner is not None:
            tuner.restore(meta["gain"], arrays)
        ledger.restore(meta["first_version"], meta["ledger"])
        budget = None
        if engine.privacy is not None:
            budget = Budget(engine.privacy)
            budget.restore(meta["spent"])
        if engine.cache is not None:
            engine.cache.restore(meta["cache"], arrays)
        aggregator.restore(meta["aggregator"], arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise BadState("The saved state is incomplete or damaged.") from error
    engine.population, engine.ledger, engine.guard, engine.budget = (
        population,
        ledger,
        guard,
        budget,
    )
    engine.waiting = waiting
    engine.version, engine.merges, engine.opened_at = version, merges, opened_at
    engine.aggregator = aggregator
    engine.step.tuner, engine.step.roles = tuner, roles
    _assign_arrays(engine, versions, arrays)


def _configuration(engine: Engine) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "recipe": engine.recipe.name,
        "options": engine.recipe.options(),
        "limits": asdict(engine.limits),
        "rule": None if engine.rule is None else asdict(engine.rule),
        "privacy": None if engine.privacy is None else asdict(engine.privacy),
    }


def _check_configuration(engine: Engine, meta: dict[str, Any]) -> None:
    for key, value in _configuration(engine).items():
        # States saved before there was privacy do not name it.
        if meta.get(key) != value:
            raise BadState(f"The saved state belongs to an engine with another {key}.")


def _checked_arrays(engine: Engine, meta: dict[str, Any], state: dict[str, Any]) -> Arrays:
    # Row counts are tied to the metadata before anything is assigned, so that a damaged state
    # is refused as a whole.
    size = engine.params.size
    shapes: Shapes = {"params": (size,), "rows": (len(meta["waiting"]), size)}
    if engine.models:
        shapes["models"] = (len(meta["models"]), size)
    if engine.step.moments is not None:
        shapes["momentum"] = engine.step.moments.shape
    if engine.step.mean is not None:
        shapes["mean"] = (size,)
    if engine.step.tuner is not None:
        shapes |= engine.step.tuner.shapes()
    shapes |= engine.aggregator.shapes(meta["aggregator"], size)
    if engine.cache is not None:
        shapes |= engine.cache.shapes(meta["cache"])
    arrays = {name: np.asarray(state[name]) for name in shapes}
    dtypes: dict[str, np.dtype[Any]] = {}
    if engine.cache is not None:
        dtypes = {"cache": engine.cache.rows.form[0], "cache_total": engine.cache.total.dtype}
    for name, shape in shapes.items():
        expected = dtypes.get(name, np.dtype(np.float32))
        if arrays[name].dtype != expected or arrays[name].shape != shape:
            raise BadState(f"The saved array {name!r} does not fit this engine.")
        # Row by row: what is found of many models at once would take a quarter of their memory.
        if name in _FINITE and not all(np.isfinite(r).all() for r in np.atleast_2d(arrays[name])):
            raise BadState(f"The saved array {name!r} is not finite.")
    if shapes["rows"][0] > engine.slab.capacity:
        raise BadState("The saved state holds more updates than the buffer.")
    return arrays


def _assign_arrays(engine: Engine, versions: list[int], arrays: Arrays) -> None:
    engine.params = frozen(arrays["params"].copy())
    engine.slab.clear()
    for row in arrays["rows"]:
        engine.slab.store(row)
    if engine.models:
        engine.models = dict(zip(versions, arrays["models"].copy(), strict=True))
        engine.models[engine.version] = engine.params
    engine.step.restore(
        arrays["momentum"].copy() if "momentum" in arrays else None,
        arrays["mean"].copy() if "mean" in arrays else None,
    )
