"""Recipes by name, with options as a configuration file or policy gives them."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from strategies.errors import BadOption, UnknownRecipe
from strategies.recipe import Recipe
from strategies.recipes.ace import ACE
from strategies.recipes.aced import ACED
from strategies.recipes.area import AREA
from strategies.recipes.async_wa import AsyncWA
from strategies.recipes.asyncfeded import AsyncFedED
from strategies.recipes.ca2fl import CA2FL
from strategies.recipes.dc_asgd import DCASGD
from strategies.recipes.fadas import FADAS
from strategies.recipes.fedasync import FedAsync
from strategies.recipes.fedavg import FedAvg
from strategies.recipes.fedbuff import FedBuff
from strategies.recipes.fedstaleweight import FedStaleWeight
from strategies.recipes.ringleader import Ringleader
from strategies.recipes.ringmaster import Ringmaster

RECIPES: dict[str, type[Any]] = {
    kind.name: kind
    for kind in (
        ACE,
        ACED,
        AREA,
        AsyncWA,
        AsyncFedED,
        CA2FL,
        DCASGD,
        FADAS,
        FedAsync,
        FedAvg,
        FedBuff,
        FedStaleWeight,
        Ringleader,
        Ringmaster,
    )
}


def recipe_from(name: str, **options: Any) -> Recipe:
    """Build a recipe.

    Parameters
    ----------
    name : str
        One of ``RECIPES``: "async-wa", "fedbuff", "ca2fl" and so on.
    **options : bool, int, float, str or None
        Options of the recipe; strings as written by ``Recipe.options`` are read back.

    Returns
    -------
    Recipe

    Raises
    ------
    UnknownRecipe
        No recipe has this name.
    BadOption
        An option is unknown, has the wrong type or is out of range.
    """
    if name not in RECIPES:
        raise UnknownRecipe(f"Unknown recipe {name!r}; choose one of {', '.join(sorted(RECIPES))}.")
    kind = RECIPES[name]
    types = {field.name: str(field.type) for field in fields(kind)}
    unknown = sorted(set(options) - set(types))
    if unknown:
        raise BadOption(
            f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(types))}."
        )
    values: dict[str, Any] = {
        key: _read(f"{name}.{key}", value, types[key]) for key, value in options.items()
    }
    recipe: Recipe = kind(**values)
    return recipe


def _read(name: str, value: object, declared: str) -> object:
    wanted = declared.removesuffix(" | None")
    if value is None or value == "none":
        if wanted != declared:
            return None
    elif wanted == "bool":
        if value is True or value == "true":
            return True
        if value is False or value == "false":
            return False
    elif wanted == "int":
        return _int(name, value)
    elif wanted == "float":
        return _float(name, value)
    elif isinstance(value, str):
        return value
    raise BadOption(f"{name} cannot be {value!r}.")


def _int(name: str, value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        return int(value)
    if type(value) is int:
        return value
    raise BadOption(f"{name} must be a whole number, not {value!r}.")


def _float(name: str, value: object) -> float:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise BadOption(f"{name} must be a finite number, not {value!r}.")
