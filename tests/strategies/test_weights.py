from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from strategies import ClientUpdate, Engine, ReleaseRule
from strategies.drift import CachedDeltas
from strategies.errors import BadOption
from strategies.recipe import Parts
from strategies.robust.robustness import Robustness
from strategies.window import Buffer, Sliding


@dataclass(frozen=True)
class Always:
    value: float

    def weight(self, staleness: float) -> float:
        return self.value


@dataclass(frozen=True)
class Own:
    inside: Parts
    disjoint: bool = True
    name: ClassVar[str] = "own"

    def parts(self) -> Parts:
        return self.inside

    def options(self) -> dict[str, str]:
        return {}


BUFFER = Parts(Buffer(2))
SHAPES = {
    "sum": BUFFER,
    "count": replace(BUFFER, normalise="count"),
    "cache": replace(BUFFER, drift=CachedDeltas()),
    "krum": replace(BUFFER, robust=Robustness("krum")),
    "median": replace(BUFFER, robust=Robustness("median")),
    "sliding": Parts(Sliding(2)),
    "sliding-cache": Parts(Sliding(2), drift=CachedDeltas()),
}


def merged(parts: Parts, weight: float, rule: ReleaseRule | None = None) -> Engine:
    recipe = Own(replace(parts, freshness=Always(weight)))
    engine = Engine(recipe, np.zeros(3, np.float32), release_rule=rule)
    for number in range(2):
        client, delta = f"c{number}", np.ones(3, np.float32)
        engine.offer(ClientUpdate(client, 0, delta, 1, str(number)), 0.0)
        if engine.ready(0.0):
            engine.merge(0.0)
    return engine


@pytest.mark.parametrize("shape", SHAPES)
def test_updates_that_weigh_nothing_move_nothing(shape: str) -> None:
    engine = merged(SHAPES[shape], 0.0)
    assert engine.version > 0
    if shape != "sliding-cache":
        assert not engine.params.any()
    assert np.isfinite(engine.params).all()


@pytest.mark.parametrize("shape", ["sum", "count", "sliding"])
@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_that_are_no_weights_are_refused(shape: str, weight: float) -> None:
    with pytest.raises(BadOption, match="finite numbers from 0"):
        merged(SHAPES[shape], weight)


def test_a_release_of_updates_that_weigh_nothing_is_refused() -> None:
    with pytest.raises(BadOption, match="a weight above 0"):
        merged(BUFFER, 0.0, ReleaseRule(2))
