"""The intake a strategy needs: an engine here, or an enclave behind a gateway."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fl_protocol.ports import Clock
from fl_server.durable.engine import Saved
from fl_server.durable.folder import open_saved
from fl_server.intake.base import Intake
from fl_server.intake.plain import PlainIntake
from fl_server.intake.spill import SpillFiles
from strategies.recipe import Recipe
from strategies.screening import Limits
from strategies.window import Buffer

_IN_FLIGHT = "in_flight"

if TYPE_CHECKING:
    from fl_server.strategy.async_strategy import AsyncStrategy


def make_intake(
    strategy: AsyncStrategy, in_flight: int, clock: Clock, saved: Saved | None
) -> Intake:
    """Build the intake of a run that keeps so many tasks in flight and is perhaps saved."""
    recipe = strategy.recipe(in_flight)
    if strategy.gateway is not None:
        # Plain mode must not need what attestation and gateway calls need.
        from fl_server.intake.sealed import SealedIntake

        return SealedIntake(strategy.gateway, recipe, state_folder=strategy.state_folder)
    return PlainIntake(
        recipe,
        clock,
        limits=strategy.limits or fitting_limits(recipe, in_flight),
        release_rule=strategy.release_rule,
        weighted_by_key=strategy.weighted_by_key,
        replies=strategy.replies,
        disk=SpillFiles(strategy.cache_folder),
        saved=saved,
        about={_IN_FLIGHT: in_flight},
    )


def opened(folder: Path | None) -> AbstractContextManager[Saved | None]:
    """Open a run's folder for as long as the run goes on, if it has one; see `open_saved`."""
    return nullcontext() if folder is None else open_saved(folder)


def saved_in_flight(saved: Saved | None) -> int | None:
    """Return how many tasks a saved run keeps in flight: its recipe may depend on it."""
    about = None if saved is None else saved.ledger.about()
    return None if about is None else about.get(_IN_FLIGHT)


def fitting_limits(recipe: Recipe, in_flight: int) -> Limits:
    """Return bounds that let slow clients take part.

    Staleness counts versions. Where every upload makes a version, a client a hundred times
    slower than the others lags a hundred times `in_flight` versions behind; the bound of 100
    stands for as many rounds. Recipes that mix models keep every model within the bound in
    memory, so theirs is ten rounds.
    """
    parts = recipe.parts()
    if isinstance(parts.window, Buffer):
        return Limits()
    rounds = 10 if parts.keeps_models else 100
    return Limits(max_staleness=max(100, rounds * in_flight))
