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
    UnknownPolicy,
    UnknownRecipe,
    UnprivateRecipe,
)
from strategies.layout import Layout
from strategies.privacy.settings import Privacy
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
from strategies.reject import Reject
from strategies.release import ReleaseRule
from strategies.screening import Limits
from strategies.update import Accepted, ClientUpdate, Merge, Rejected, Vector

__all__ = [
    "ACE",
    "ACED",
    "AREA",
    "CA2FL",
    "DCASGD",
    "FADAS",
    "Accepted",
    "AsyncFedED",
    "AsyncWA",
    "BadOption",
    "BadState",
    "ClientUpdate",
    "Engine",
    "FedAsync",
    "FedAvg",
    "FedBuff",
    "FedStaleWeight",
    "Layout",
    "LeakyRecipe",
    "Limits",
    "ManifestMismatch",
    "Merge",
    "MergeDue",
    "Privacy",
    "Recipe",
    "Reject",
    "Rejected",
    "ReleaseNotReady",
    "ReleaseRule",
    "Ringleader",
    "Ringmaster",
    "StrategyError",
    "UnknownPolicy",
    "UnknownRecipe",
    "UnprivateRecipe",
    "Vector",
    "recipe_from",
]
