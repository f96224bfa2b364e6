"""Bounds on updates that let slow clients take part, where none were given."""

from __future__ import annotations

from strategies.recipe import Parts, Recipe
from strategies.screening import Limits

# Uploads of one client for every upload of a client so slow that it is refused as too stale.
_SLOWEST, _LEAST_STALENESS = 50, 1000
_SLOWEST_KEPT, _LEAST_KEPT = 10, 100


def fitting_staleness(parts: Parts, in_flight: int) -> int:
    """Return how many versions an update may lag behind with so many tasks in flight.

    The versions of fifty rounds, in each of which everybody at work uploads once, and 1000 at
    least.
    """
    return _versions(_SLOWEST, parts, in_flight, _LEAST_STALENESS)


def fitting_limits(recipe: Recipe, in_flight: int) -> Limits:
    """Return the bounds of a live run in plain mode.

    Recipes that mix models keep every model within the bound in memory, so theirs is ten rounds,
    and 100 versions at least; that of others is `fitting_staleness`.
    """
    parts = recipe.parts()
    if parts.keeps_models:
        return Limits(max_staleness=_versions(_SLOWEST_KEPT, parts, in_flight, _LEAST_KEPT))
    return Limits(max_staleness=fitting_staleness(parts, in_flight))


def _versions(rounds: int, parts: Parts, in_flight: int, least: int) -> int:
    return max(least, round(rounds * (in_flight / parts.uploads_per_merge)))
