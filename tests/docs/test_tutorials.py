"""The code in the tutorials runs as it is printed."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from strategies.catalog import RECIPES
from tests.support.federation import initial_arrays, virtual_grid

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "own-recipe.md"


@pytest.fixture
def tutorial(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("tutorial")
    monkeypatch.setitem(sys.modules, "tutorial", module)
    code = "\n".join(re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(TUTORIAL), "exec"), module.__dict__)
    module.printed = printed.getvalue()
    return module


def test_own_recipe_prints_what_the_tutorial_says(tutorial: ModuleType) -> None:
    model, weights = tutorial.printed.splitlines()

    assert model == "[2.]"
    assert re.fullmatch(r"\(0\.5216\d+, 0\.4783\d+\)", weights)


def test_own_recipe_trains_in_flower(tutorial: ModuleType) -> None:
    result = tutorial.strategy.start(virtual_grid(), initial_arrays(), num_rounds=4)

    assert list(result.train_metrics_clientapp) == [1, 2, 3, 4]
    assert tutorial.strategy.describe() == {
        "recipe": "halving",
        "buffer_size": "3",
        "half_life": "8.0",
    }


def test_tutorial_lists_every_recipe_and_which_work_behind_a_gateway() -> None:
    rows = re.findall(r"^\| (`.*?`) \|.*\| (yes|no|with .*?) \|$", TUTORIAL.read_text(), re.M)
    listed = {name: answer for cell, answer in rows for name in re.findall("`(.*?)`", cell)}

    assert listed.keys() == RECIPES.keys()
    for name, kind in RECIPES.items():
        if name != "async-wa":
            assert listed[name] == ("yes" if kind().disjoint else "no")
