"""Recipes of one's own, tried on a tiny model before anybody trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fl_protocol.codes import Code, ConfigInvalid
from strategies.cached_rows import Memory
from strategies.engine import Engine
from strategies.errors import BadOption
from strategies.recipe import Parts, Recipe
from strategies.update import ClientUpdate
from strategies.window import Buffer, Sliding

_PARAMS = 8
# Of two updates per member of a buffer; the later buffers have late updates.
_TURNS = 3


@contextmanager
def failures_named(
    name: str, *, but: type[Exception] | tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Raise ConfigInvalid, which names the recipe and what it raised, for exceptions but these."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"strategy.name = {name}: the recipe failed when it was tried before any training: "
            f"{type(error).__name__}: {error}",
        ) from error


def check_parts(name: str, recipe: Recipe) -> None:
    """Refuse parts that are none, or that make no version.

    Raises
    ------
    BadOption
        If an option does not fit the parts.
    ConfigInvalid
        If the recipe has no parts, or hands out fewer tasks per version than a version takes.
    """
    with failures_named(name, but=BadOption):
        parts = recipe.parts()
        if not isinstance(parts, Parts):
            raise TypeError(f"parts() must return Parts, not {parts!r}")
        if not isinstance(parts.window, Buffer | Sliding):
            raise TypeError(f"the window must be Buffer or Sliding, not {parts.window!r}")
    cohort, window = parts.cohort, parts.window
    if cohort is None:
        return
    if type(cohort) is not int or cohort < 1:
        raise _refused(name, f"a cohort is a whole number from 1, not {cohort!r}.")
    if isinstance(window, Buffer) and window.max_wait is None and cohort < window.size:
        raise _refused(
            name,
            f"a buffer of {window.size} never fills with a cohort of {cohort}; enlarge it.",
        )


def try_merges(name: str, recipe: Recipe) -> None:
    """Merge a few updates of a tiny model.

    Raises
    ------
    ConfigInvalid
        If the recipe fails.
    """
    rng = np.random.default_rng(0)
    with failures_named(name):
        engine = Engine(recipe, np.zeros(_PARAMS, np.float32), disk=Memory())
        size = engine.parts.uploads_per_merge
        for turn in range(_TURNS * size):
            late = max(0, engine.version - 2)
            for client, base in ((f"{turn % size}", engine.version), (f"late {turn}", late)):
                delta = rng.normal(scale=0.01, size=_PARAMS).astype(np.float32)
                engine.offer(ClientUpdate(client, base, delta, 5, f"{client} {turn}"), now=turn)
                if engine.ready(turn):
                    engine.merge(turn)


def _refused(name: str, sentence: str) -> ConfigInvalid:
    return ConfigInvalid(Code.CONFIG_INVALID, f"strategy.name = {name}: {sentence}")
