"""The engine: one pure, deterministic state machine behind every recipe.

The same code merges plain updates in a server, sealed updates in an enclave and simulated ones
in virtual time; only the caller's clock differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from strategies.aggregators import Aggregator, Bench, aggregator_for
from strategies.batch import Batch, Pending, gather
from strategies.cached_rows import RowSpace
from strategies.confidential import capacity, over_quota, refuse_leaky
from strategies.errors import MergeDue, ReleaseNotReady
from strategies.guard import guard_for
from strategies.ledger import Ledger
from strategies.model_step import ModelStep
from strategies.population import Population
from strategies.privacy.budget import Budget
from strategies.privacy.discrete_gaussian import Entropy
from strategies.privacy.private_mean import private_mean
from strategies.privacy.settings import Privacy, refuse_unprivate
from strategies.recipe import Recipe
from strategies.reject import Reject, sentence
from strategies.release import ReleaseRule
from strategies.roles import Roles
from strategies.screening import Limits, screen_form, screen_values, tightened
from strategies.slab import Slab
from strategies.snapshot import read_snapshot, write_snapshot
from strategies.update import (
    Accepted,
    ClientUpdate,
    Merge,
    Rejected,
    Vector,
    frozen,
    initial_model,
)

__all__ = ["Engine", "Limits"]


class Engine:
    """Collect updates and merge them by a recipe.

    Parameters
    ----------
    recipe : Recipe
        The aggregation rule.
    params : Vector
        Initial model, float32, shape ``(P,)``; copied.
    limits : Limits
        Bounds on every update.
    release_rule : ReleaseRule, optional
        What a merge must satisfy before it may leave (confidential mode).
    version : int
        Version of the initial model.
    disk : RowSpace, optional
        Where recipes with ``cache = "disk"`` keep their rows.
    privacy : Privacy, optional
        Differential privacy of every merge; updates are then clipped instead of refused for
        their norm, and a client takes part until its budget is spent.
    entropy : callable, optional
        Source of the noise's random bytes; needed for privacy.
    roles : Roles
        What the columns of the model hold, see `Layout.roles`; nothing is known of them by default.

    Raises
    ------
    LeakyRecipe
        A release rule is given and the recipe's successive models could be differenced.
    UnprivateRecipe
        Privacy is asked for, and one client's influence on the recipe's merges is not bounded.
    BadOption
        The recipe's cache does not fit the release rule, or has no disk.
    ManifestMismatch
        The initial model is not a finite, non-empty float32 vector.

    Notes
    -----
    Call :meth:`merge` as soon as :meth:`ready`; a full buffer takes no further update.
    """

    def __init__(
        self,
        recipe: Recipe,
        params: Vector,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        release_rule: ReleaseRule | None = None,
        version: int = 0,
        disk: RowSpace | None = None,
        privacy: Privacy | None = None,
        entropy: Entropy | None = None,
        roles: Roles = Roles(),  # noqa: B008 - frozen
    ) -> None:
        refuse_leaky(recipe, release_rule)
        refuse_unprivate(recipe, privacy)
        self.recipe, self.rule, self.parts = recipe, release_rule, recipe.parts()
        self.privacy = privacy
        self.budget = None if privacy is None else Budget(privacy)
        self.limits = tightened(
            limits,
            self.parts.max_staleness,
            clips=privacy is not None,
            ruled=release_rule is not None,
        )
        self.version = version
        self.params = initial_model(params)
        size = self.params.size
        self.slab = Slab(capacity(self.parts.window, release_rule), size)
        self.waiting: list[Pending] = []
        self.opened_at = 0.0
        self.merges = 0
        self.ledger = Ledger(version)
        age = self.parts.forgetting
        self.population = Population(
            age.max_age,
            age.max_clients,
            self.parts.num_clients,
            age.per_client,
            counts_rounds=self.parts.gain is not None,
        )
        self.models = {version: self.params} if self.parts.keeps_models else {}
        drift = self.parts.drift
        self.cache = drift.cache(size, disk, release_rule) if drift else None
        self._entropy = entropy
        roles = self.parts.roles_used(roles)
        self.guard = guard_for(release_rule, self.parts, self.cache)
        self.aggregator = self.new_aggregator(roles)
        self.step = ModelStep(self.parts, self.params, roles)

    @property
    def pending(self) -> int:
        """Updates waiting for the next merge."""
        return len(self.waiting)

    @property
    def full(self) -> bool:
        """Whether the buffer takes no further update before the next merge."""
        return self.pending == self.slab.capacity

    @property
    def published(self) -> Vector:
        """The model to evaluate and serve: the running mean if the recipe has one.

        Read-only, shape ``(P,)``; a snapshot that later merges do not change.
        """
        return self.step.published(self.params)

    def lease(self) -> Vector:
        """Return a row to receive the next update into.

        Offering an update whose delta is this very row stores it without copying; until then
        every call returns the same row, also after the update was refused. Do not write to the
        row after it was accepted.

        Returns
        -------
        Vector
            Writable, arbitrary content, shape ``(P,)``.
        """
        return self.slab.lease()

    def offer(self, update: ClientUpdate, now: float) -> Accepted | Rejected:
        """Take an update into the buffer, or refuse it and change nothing.

        Under a bound on leverage a full buffer that still may not be released is discarded: the
        update that fills it is refused as LEVERAGE_BOUND, and those that waited may be sent again.

        Parameters
        ----------
        update : ClientUpdate
            The update; its delta is copied unless it is the leased row.
        now : float
            Time in seconds on the caller's clock.

        Returns
        -------
        Accepted or Rejected

        Raises
        ------
        MergeDue
            The buffer is full; nothing was changed.
        """
        code = self._screen(update)
        if code is not None:
            return Rejected(code, sentence(code))
        if self.full:
            raise MergeDue("The buffer is full: call merge() before offering the next update.")
        staleness = self.version - update.base_version
        self.slab.store(update.delta)
        if not self.waiting:
            self.opened_at = now
        self.waiting.append(Pending.of(update, staleness))
        self.ledger.add(update.client, update.base_version, update.update_id)
        if self.full and self._held_back():
            self._discard()
            return Rejected(Reject.LEVERAGE_BOUND, sentence(Reject.LEVERAGE_BOUND))
        return Accepted(staleness, self.pending)

    def ready(self, now: float) -> bool:
        """Whether :meth:`merge` may be called.

        Parameters
        ----------
        now : float
            Time in seconds on the caller's clock; counts only for recipes with a longest wait.

        Returns
        -------
        bool
        """
        if not self.waiting or not self.parts.window.due(self.pending, now - self.opened_at):
            return False
        if self.rule is None:
            return True
        return (
            self.rule.enough_clients([update.client for update in self.waiting])
            and not self._held_back()
        )

    def merge(self, now: float) -> Merge:
        """Merge the buffer into a new version.

        Parameters
        ----------
        now : float
            Time in seconds on the caller's clock.

        Returns
        -------
        Merge

        Raises
        ------
        ReleaseNotReady
            :meth:`ready` is false; nothing was changed.
        """
        if not self.ready(now):
            raise ReleaseNotReady(
                "Too few updates or distinct clients, or too much leverage of one; wait for more."
            )
        merged = np.empty_like(self.params)
        if self.cache is not None:
            self.cache.reserve(update.client for update in self.waiting)
        batch = self._batch(self.population, self.slab.take())
        weights = self.aggregator.weigh(batch)
        if self.rule is not None and not self.rule.allows(
            [update.client for update in batch.updates], weights
        ):
            raise ReleaseNotReady("The weights of this buffer would expose a single client.")
        self.step.apply(batch, self.aggregator, self.merges + 1, merged)
        if self.guard is not None:
            self.guard.released(batch)
        if self.budget is not None:
            self.budget.charge(update.client for update in batch.updates)
        self._commit(frozen(merged))
        return Merge(self.version, self.params, tuple(u.update_id for u in batch.updates), weights)

    def new_aggregator(self, roles: Roles) -> Aggregator:
        """Return what turns updates into a direction, with nothing to remember yet."""
        if self.privacy is not None:
            return private_mean(self.parts, self.privacy, self._entropy)
        return aggregator_for(
            Bench(self.parts, self.params, self.cache, lambda version: self.models[version], roles)
        )

    def state(self) -> dict[str, Any]:
        """Return everything needed to continue, as arrays and one JSON string.

        Returns
        -------
        dict
            Arrays by name, and ``"meta"``: a JSON string. Later merges do not change it.
        """
        return write_snapshot(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state` was taken.

        Parameters
        ----------
        state : dict
            What an engine of the same recipe, model size and release rule returned.

        Raises
        ------
        BadState
            The state is damaged, not finite or of another configuration; nothing was changed.
        """
        read_snapshot(self, state)

    def _screen(self, update: ClientUpdate) -> Reject | None:
        # Reading the values costs most and comes last.
        return (
            screen_form(update, self.limits, self.params.size)
            or self.ledger.screen(update, self.version, self.limits.max_staleness)
            or over_quota(update.client, self.waiting, self.rule)
            or (self.budget.screen(update.client) if self.budget else None)
            or screen_values(update.delta, self.limits, update.squared_norm)
        )

    def _held_back(self) -> bool:
        if self.guard is None:
            return False
        no_rows = np.empty((0, 0), np.float32)
        return self.guard.holds_back(
            self.pending, lambda: self._batch(self.population.copy(), no_rows)
        )

    def _discard(self) -> None:
        for update in self.waiting:
            self.ledger.withdraw(update.client, update.base_version, update.update_id)
        self._empty_buffer()

    def _empty_buffer(self) -> None:
        self.waiting = []
        self.slab.clear()
        if self.guard is not None:
            self.guard.forget_buffer()

    def _batch(self, population: Population, rows: npt.NDArray[np.float32]) -> Batch:
        return gather(self.waiting, rows, self.params, population, self.parts, self.rule)

    def _commit(self, merged: Vector) -> None:
        self.aggregator.commit()
        self.version += 1
        self.merges += 1
        self.params = merged
        too_old = self.version - self.limits.max_staleness - 1
        self.ledger.forget(too_old)
        if self.parts.keeps_models:
            self.models[self.version] = merged
            self.models.pop(too_old, None)
        self._empty_buffer()
