"""The intake a strategy needs: an engine here, or an enclave behind a gateway."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fl_protocol.ports import Clock
from fl_server.durable.engine import Saved
from fl_server.durable.folder import open_saved
from fl_server.intake.base import Intake
from fl_server.intake.limits import fitting_limits
from fl_server.intake.plain import PlainIntake
from fl_server.intake.spill import SpillFiles

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
