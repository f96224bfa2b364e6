"""Recipes by name, with options as a configuration file or policy gives them."""

from __future__ import annotations

from typing import Any

from strategies.errors import UnknownRecipe
from strategies.options import build
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


def recipe_from(name: str, /, **options: Any) -> Recipe:
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
    recipe: Recipe = build(name, RECIPES[name], options)
    return recipe
