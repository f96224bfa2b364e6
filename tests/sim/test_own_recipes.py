"""Recipes of one's own that cannot work are refused before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from fl_protocol.codes import ConfigInvalid
from fl_sim.simulation.sweep import simulate
from strategies.errors import BadOption
from strategies.recipe import Parts
from strategies.recipes.ca2fl import CA2FL
from strategies.window import Buffer, Sliding
from tests.support.sweeps import small


class Negative:
    def weight(self, staleness: float) -> float:
        return 1.0 - staleness


class Words:
    def weight(self, staleness: float) -> str:
        return "x"


class Raising:
    def weight(self, staleness: float) -> float:
        return 1 / 0


@dataclass(frozen=True)
class Working:
    buffer_size: int = 2

    def parts(self) -> Parts:
        return Parts(Buffer(self.buffer_size))


@dataclass(frozen=True)
class OnDisk(CA2FL):
    cache: str = "disk"


@dataclass(frozen=True)
class FreshOnly:
    def parts(self) -> Parts:
        return Parts(Buffer(3), max_staleness=0)


@dataclass(frozen=True)
class NegativeWeights:
    def parts(self) -> Parts:
        return Parts(Buffer(2), freshness=Negative())


@dataclass(frozen=True)
class WordsForWeights:
    def parts(self) -> Parts:
        return Parts(Buffer(2), freshness=Words())


@dataclass(frozen=True)
class RaisingWeights:
    def parts(self) -> Parts:
        return Parts(Buffer(2), freshness=Raising())


@dataclass(frozen=True)
class NoWeights:
    def parts(self) -> Parts:
        return Parts(Buffer(2), freshness=object())


@dataclass(frozen=True)
class NoParts:
    def parts(self) -> Any:
        return None


@dataclass(frozen=True)
class NoWindow:
    def parts(self) -> Parts:
        return Parts(3)


@dataclass(frozen=True)
class NoUploadRule:
    def parts(self) -> Parts:
        return Parts(Sliding(1), upload=object())


@dataclass(frozen=True)
class Unbuildable:
    def __post_init__(self) -> None:
        raise ValueError("bad luck")

    def parts(self) -> Parts:
        return Parts(Buffer(2))


@dataclass(frozen=True)
class SmallCohort:
    cohort: int = 2

    def parts(self) -> Parts:
        return Parts(Buffer(4), cohort=self.cohort)


@dataclass(frozen=True)
class LargeBuffer:
    def parts(self) -> Parts:
        return Parts(Buffer(100))


def named(kind: type[Any]) -> str:
    return f"{__name__}:{kind.__name__}"


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (
            NegativeWeights,
            "BAD_OPTION: A recipe must weigh updates by finite numbers from 0, not -",
        ),
        (WordsForWeights, "TypeError: "),
        (RaisingWeights, "ZeroDivisionError: division by zero"),
        (NoWeights, "AttributeError: 'object' object has no attribute 'weight'"),
        (NoParts, "TypeError: parts() must return Parts, not None"),
        (NoWindow, "TypeError: the window must be Buffer or Sliding, not 3"),
        (NoUploadRule, "AttributeError: 'object' object has no attribute 'keeps_models'"),
        (Unbuildable, "ValueError: bad luck"),
        (SmallCohort, "a buffer of 4 never fills with a cohort of 2"),
        (LargeBuffer, "a buffer of 100 never fills with devices.clients = 6"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_any_training(
    kind: type[Any], complaint: str
) -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        simulate(
            small(strategy={"name": named(kind)}), on_progress=lambda *_: pytest.fail("trained")
        )
    assert refusal.value.sentence.startswith(f"strategy.name = {named(kind)}: ")
    assert complaint in refusal.value.sentence


@pytest.mark.parametrize("cohort", [0, -1])
def test_a_cohort_is_a_number_of_tasks(cohort: int) -> None:
    name = named(SmallCohort)
    with pytest.raises(ConfigInvalid, match="a cohort is a whole number from 1"):
        simulate(small(strategy={"name": name, "options": {name: {"cohort": cohort}}}))


def test_a_bad_option_of_a_recipe_of_ones_own_is_one_of_its_table() -> None:
    name = named(Working)
    with pytest.raises(BadOption, match=f"strategy.options.{name}: The buffer size must be"):
        simulate(small(strategy={"name": name, "options": {name: {"buffer_size": 0}}}))


@pytest.mark.parametrize("kind", [Working, OnDisk, FreshOnly])
def test_a_recipe_that_works_passes_the_trial(kind: type[Any]) -> None:
    run = {"seeds": 1, "virtual_time": 1.0}
    assert simulate(small(strategy={"name": named(kind)}, run=run)).runs
