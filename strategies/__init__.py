"""Asynchronous aggregation rules on flat vectors; costs numpy only."""

from strategies.catalog import recipe_from
from strategies.engine import Engine
from strategies.errors import (
    BadOption,
    BadState,
    LeakyRecipe,
    ManifestMismatch,
    MergeDue,
    ReleaseNotReady,
    StrategyError,
    UnknownRecipe,
)
from strategies.layout import Layout
from strategies.recipe import Recipe
from strategies.recipes.async_wa import AsyncWA
from strategies.recipes.fedasync import FedAsync
from strategies.recipes.fedbuff import FedBuff
from strategies.reject import Reject
from strategies.release import ReleaseRule
from strategies.screening import Limits
from strategies.update import Accepted, ClientUpdate, Merge, Rejected, Vector

__all__ = [
    "Accepted",
    "AsyncWA",
    "BadOption",
    "BadState",
    "ClientUpdate",
    "Engine",
    "FedAsync",
    "FedBuff",
    "Layout",
    "LeakyRecipe",
    "Limits",
    "ManifestMismatch",
    "Merge",
    "MergeDue",
    "Recipe",
    "Reject",
    "Rejected",
    "ReleaseNotReady",
    "ReleaseRule",
    "StrategyError",
    "UnknownRecipe",
    "Vector",
    "recipe_from",
]
