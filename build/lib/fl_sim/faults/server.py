"""One life of a server in a world: the strategy as users run it, on the simulated disk."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fl_protocol.ports import Clock
from fl_server.durable.engine import Saved
from fl_server.intake.base import Intake
from fl_server.intake.plain import PlainIntake
from fl_server.strategy import AsyncStrategy
from fl_server.strategy.events import Event, UpdateEvent
from fl_sim.faults.invariants import check_fairness
from fl_sim.faults.network import SIZE, FaultyGrid
from strategies.layout import Layout
from strategies.recipe import Recipe
from strategies.screening import Limits
from strategies.update import Vector

LIMITS = Limits(max_staleness=12)


class Onlooker(Protocol):
    """What a server's life is watched by."""

    def opened(self, waiting: set[str]) -> None:
        """Look at a server that has taken its run up, and at the updates that wait there."""
        ...

    def served(self, version: int, params: Vector) -> None:
        """Look at a model that is about to be sent out."""
        ...

    def observed(self, server: Server, event: Event) -> None:
        """Look at what a server has done."""
        ...


class Server(AsyncStrategy):
    """The strategy, kept on the simulated disk.

    Parameters
    ----------
    recipe : Recipe
        Of the run.
    saved : Saved
        Where the run is kept.
    onlooker : Onlooker
        Checks what it does.
    """

    def __init__(self, recipe: Recipe, saved: Saved, onlooker: Onlooker) -> None:
        super().__init__(
            recipe,
            fraction_evaluate=0.0,
            limits=LIMITS,
            callbacks=[self._observe],
            seed=saved.ledger.next_number,
        )
        self._onlooker, self._saved = onlooker, saved
        self._nodes: list[int] = []
        self._counts: dict[int, int] = {}
        self._open = False

    @property
    def newest_update(self) -> str:
        """Id of the update received last."""
        return f"update-{self._saved.journal.next_number - 1}"

    @property
    def journal_bytes(self) -> int:
        """Bytes of the journal."""
        return self._saved.journal.size

    def serve(self, grid: FaultyGrid, patience: float) -> None:
        """Run until told to stop, or until there was no version for so many seconds."""
        self._nodes = grid.get_node_ids()
        initial = ArrayRecord({"w": Array(np.zeros(SIZE, np.float32))})
        self.start(grid, initial, num_rounds=10**9, timeout=patience)

    def check_fairness(self) -> None:
        """I11, for a life in which the run was open."""
        if self._open:
            check_fairness(self.fairness, self._counts, self._nodes)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Build the messages of a version."""
        self._onlooker.served(server_round - 1, arrays["w"].numpy())
        return super().configure_train(server_round, arrays, config, grid)

    def _observe(self, event: Event) -> None:
        if isinstance(event, UpdateEvent) and event.accepted:
            self._count(event.client)
        self._onlooker.observed(self, event)

    def _count(self, client: str) -> None:
        self._counts[int(client)] = self._counts.get(int(client), 0) + 1

    def _opened(self) -> AbstractContextManager[Saved | None]:
        return nullcontext(self._saved)

    def _make_intake(self, in_flight: int, clock: Clock, saved: Saved | None) -> Intake:
        intake = super()._make_intake(in_flight, clock, saved)
        assert isinstance(intake, PlainIntake)
        begin = intake.open

        def opened(run_id: str, layout: Layout, params: Vector) -> None:
            begin(run_id, layout, params)
            self._open = True
            for update in intake.waiting:
                self._count(update.client)
            self._onlooker.opened({update.update_id for update in intake.waiting})

        intake.open = opened  # type: ignore[method-assign]
        return intake
