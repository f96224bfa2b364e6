"""Recipes of one's own, which a configuration names as ``module:Class``."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from strategies.catalog import RECIPES
from strategies.errors import UnknownRecipe


def recipe_kind(name: str) -> type[Any]:
    """Return the class of a recipe.

    Parameters
    ----------
    name : str
        That of the catalogue, or ``module:Class`` of any dataclass that is a recipe. The module
        is imported, so only ever take the name from whoever runs the simulation.

    Raises
    ------
    UnknownRecipe
        There is no such recipe, or what the name means is none.
    """
    if name in RECIPES:
        return RECIPES[name]
    module_name, colon, class_name = name.partition(":")
    if not colon:
        raise UnknownRecipe(
            f"Unknown recipe {name!r}; choose one of {', '.join(sorted(RECIPES))}, "
            "or name one of your own as module:Class."
        )
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise UnknownRecipe(
            f"The recipe {name!r} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if not (isinstance(kind, type) and is_dataclass(kind) and callable(getattr(kind, "parts", 0))):
        raise UnknownRecipe(f"{name!r} is no recipe: it must be a dataclass with a method parts.")
    return kind


def source_digest(name: str) -> str:
    """Return the SHA-256 of the file that defines a recipe; empty for those of the catalogue.

    Results of a recipe that was changed since are not those of the recipe. What its file imports
    is not looked at.
    """
    if name in RECIPES:
        return ""
    file = importlib.import_module(recipe_kind(name).__module__).__file__
    return "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
