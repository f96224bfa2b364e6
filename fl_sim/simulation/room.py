"""Whether what a run keeps fits into memory."""

from __future__ import annotations

import math
import os
import resource
from typing import NamedTuple

from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.simulation.choices import size_key
from fl_sim.simulation.config import SimulationConfig
from strategies.drift import CachedDeltas
from strategies.recipe import Parts, Recipe
from strategies.update import FLOAT_BYTES


class _Kept(NamedTuple):
    """A kind of vectors kept: the key that says how many, their name, number and bytes of each."""

    key: str
    name: str
    number: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        return self.number * self.row_bytes


def check_room(config: SimulationConfig, recipe: Recipe, num_params: int) -> None:
    """Refuse a run that keeps more than fits into this machine's memory.

    Counted are the window, the models that tasks under way start from, and cached deltas.

    Raises
    ------
    ConfigInvalid
        If they do not fit.
    """
    kept = _kept(config, recipe.parts(), num_params)
    needed, memory = sum(kind.bytes for kind in kept), _memory()
    if needed <= memory:
        return
    most = max(kept, key=lambda kind: kind.bytes)
    rest = " and what else is kept" if needed > most.bytes else ""
    raise ConfigInvalid(
        Code.CONFIG_INVALID,
        f"{most.key}: {most.number} {most.name} of {num_params:,} parameters{rest} take "
        f"{needed / 2**30:.0f} GiB of this machine's {memory / 2**30:.0f}.",
    )


def _kept(config: SimulationConfig, parts: Parts, num_params: int) -> list[_Kept]:
    row = FLOAT_BYTES * num_params
    # Each is the base of at least one task, and without failures each task makes an update.
    tasks = min(parts.cohort or config.devices.num_in_flight, config.run.max_updates or math.inf)
    models = math.ceil(tasks / parts.uploads_per_merge)
    kept = [
        _Kept(size_key(config, config.strategy.name), "updates", parts.window.size, row),
        _Kept("devices.in_flight", "models", models, row),
    ]
    if parts.drift is not None and parts.drift.kind != "disk":
        deltas = int(min(tasks, parts.drift.max_clients or math.inf))
        row = _cached_bytes(parts.drift, num_params)
        kept.append(_Kept("devices.in_flight", "cached deltas", deltas, row))
    return kept


def _cached_bytes(drift: CachedDeltas, num_params: int) -> int:
    dtype, shape = drift.cache(num_params, None).rows.form
    return dtype.itemsize * math.prod(shape)


def _memory() -> int:
    """Return the bytes of memory that this process may have at most."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return physical if limit == resource.RLIM_INFINITY else min(physical, limit)
