"""One seed's world: a server that is killed and started again, and the nodes that outlive it."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fl_protocol.codes import Code, StorageFailed
from fl_server.durable import frames
from fl_server.durable.engine import Saved
from fl_server.durable.journal import Journal
from fl_server.durable.ledger import Ledger
from fl_server.strategy import NoProgress
from fl_server.strategy.events import Event, MergeEvent, UpdateEvent
from fl_sim.faults.chance import Chance, ChanceRng, Crash, Rates, Violation
from fl_sim.faults.database import SimulatedDatabase
from fl_sim.faults.disk import SimulatedDisk
from fl_sim.faults.invariants import (
    Shadow,
    check_acknowledged,
    check_served,
)
from fl_sim.faults.network import SIZE, FaultyGrid, Trainers
from fl_sim.faults.server import LIMITS, Server
from strategies.catalog import recipe_from
from strategies.engine import Engine
from strategies.recipe import Recipe
from strategies.update import Vector, digest_of

_FOLDER = Path("/run")
_NODES = 6
_SEGMENT_BYTES, _CHECKPOINT_BYTES = 2_000, 4_000
_LARGEST_JOURNAL = 200_000
_PATIENCE = 300.0
_RECOVERY_SECONDS = 1_200.0
# Refused while the disk is in trouble; anything else is damage.
_PASSING = {Code.JOURNAL_FULL, Code.JOURNAL_FAILED, Code.LEDGER_FAILED}
_RECIPES: tuple[Recipe, ...] = (
    recipe_from("async-wa", buffer_size=3),
    recipe_from("fedbuff", buffer_size=4),
    recipe_from("fedasync"),
    recipe_from("ca2fl", buffer_size=3),
    recipe_from("async-wa", buffer_size=3, disjoint=True),
)


@dataclass
class Report:
    """What happened in a world.

    Attributes
    ----------
    seed : int
        Which world.
    hours : float
        Virtual hours that passed.
    updates, acknowledged, versions, replayed : int
        Updates made by nodes, acknowledged by servers, versions merged, and versions that were done
        again from the ledger with the same digest.
    crashes : int
        Times that a process was killed.
    faults : dict of str to int
        Faults by kind.
    events : str
        Hex SHA-256 over everything that was observed: the same for the same seed.
    violation : str
        The invariant that broke, if one did, and where.
    """

    seed: int
    hours: float = 0.0
    updates: int = 0
    acknowledged: int = 0
    versions: int = 0
    replayed: int = 0
    crashes: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    events: str = ""
    violation: str = ""


class World:
    """A run of a strategy under faults.

    Parameters
    ----------
    seed : int
        Decides everything.
    hours : float
        Virtual hours under faults; then they stop, and the run must recover.
    rates : Rates, optional
        How often each fault strikes.
    """

    def __init__(self, seed: int, hours: float, rates: Rates | None = None) -> None:
        self._hours = hours
        self._chance = Chance(seed, rates or Rates())
        self._disk = SimulatedDisk(self._chance)
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        Ledger(self._database)
        self._trainers = Trainers(self._chance)
        self._grid = FaultyGrid(self._trainers, _NODES, self._chance, self._disk)
        self._recipe = _RECIPES[seed % len(_RECIPES)]
        initial = np.zeros(SIZE, np.float32)
        engine = Engine(self._recipe, initial, limits=LIMITS)
        self._shadow = Shadow(self._database, engine, self._trainers.deltas)
        self._acknowledged: set[str] = set()
        self._events = hashlib.sha256()
        self._flipped: tuple[Path, int, int] | None = None
        self._recovered = False
        self.report = Report(seed)

    def run(self) -> Report:
        """Live until the hours are over and the run has recovered."""
        try:
            with silence("flwr", "fl_server"):
                while not self._recovered:
                    self._serve()
        except Violation as violation:
            self.report.violation = f"{violation} (at {self._grid.clock.elapsed / 3600:.3f} h)"
        except Exception:
            self.report.violation = f"R: the server failed:\n{traceback.format_exc()}"
        report, chance = self.report, self._chance
        report.hours = self._grid.clock.elapsed / 3600
        report.updates, report.acknowledged = self._trainers.made, len(self._acknowledged)
        report.versions, report.replayed = max(0, self._shadow.version), self._shadow.replayed
        report.crashes, report.faults = chance.struck["crash"], dict(sorted(chance.struck.items()))
        report.events = self._events.hexdigest()
        return report

    @property
    def over(self) -> bool:
        """Whether the hours under faults are over."""
        return self._grid.clock.elapsed >= 3600 * self._hours

    def _serve(self) -> None:
        """One life of the server, from its start to its death."""
        if self.over:
            self._chance.active = False
        server: Server | None = None
        try:
            server = Server(self._recipe, self._saved(), self)
            server.serve(self._grid, self._patience())
            self._recovered = not self._chance.active
        except Crash:
            self._die()
        except StorageFailed as error:
            self._judge(error)
        except NoProgress:
            if not self._chance.active:
                raise Violation("I10: no version although all faults have stopped") from None
        if server is not None:
            server.check_fairness()
        self._shadow.follow()
        self._grid.forget()
        self._disk.start()

    def _saved(self) -> Saved:
        disk, rng = self._disk, ChanceRng(self._chance)
        journal = Journal(_FOLDER / "journal", disk, rng, segment_bytes=_SEGMENT_BYTES)
        database: Any = SimulatedDatabase(self._database, disk, self._chance)
        return Saved(_FOLDER, disk, journal, Ledger(database), _CHECKPOINT_BYTES)

    def _die(self) -> None:
        if self._database.in_transaction:
            self._database.rollback()
        if self._flipped is not None:
            # One thing at a time: a mark that is lost as well would make damage look like a torn
            # write, which is the one thing that a journal cannot tell apart.
            return
        if self._chance.rng.random() < 0.5:
            self._disk.lose_power()
        elif self._whole() and self._chance.strikes("flip"):
            self._flipped = self._disk.flip(_FOLDER / "journal")

    def _whole(self) -> bool:
        """Whether the journal ends with a mark: else a flipped bit looks like a torn write."""
        self._disk.start()
        folder = _FOLDER / "journal"
        names = self._disk.list(folder)
        if not names:
            return False
        path = folder / names[-1]
        read, size = partial(self._disk.read_at, path), self._disk.size(path)
        head = frames.decode_segment_head(read(0, frames.SEGMENT_HEAD_BYTES))
        if head is None:
            return False
        found = list(frames.scan(read, size, head.salt))
        return bool(found) and found[-1].kind == frames.MARK and found[-1].end == size

    def _judge(self, error: StorageFailed) -> None:
        """A run that cannot be continued must have been damaged; it is restored from a copy."""
        if error.code in _PASSING and self._chance.active:
            self._grid.clock.sleep(60.0)
            return
        if self._flipped is None or error.code != Code.JOURNAL_DAMAGED:
            raise Violation(f"R: the run cannot be continued: {error}")
        self._disk.start()
        self._disk.flip_back(self._flipped)
        self._flipped = None

    def opened(self, waiting: set[str]) -> None:
        """Look at a server that has taken its run up."""
        self._flipped = None
        self._shadow.follow()
        check_acknowledged(self._acknowledged, set(self._shadow.outcomes), waiting)

    def served(self, version: int, params: Vector) -> None:
        """Look at a model that is about to be sent out."""
        self._shadow.follow()
        check_served(version, digest_of(params), self._shadow)

    def observed(self, server: Server, event: Event) -> None:
        """Look at what a server has done."""
        self._events.update(repr((type(event).__name__, event.time)).encode())
        if isinstance(event, UpdateEvent) and event.accepted:
            self._acknowledged.add(server.newest_update)
            self._events.update(server.newest_update.encode())
        elif isinstance(event, MergeEvent):
            self._events.update(event.digest.encode())
            if server.journal_bytes > _LARGEST_JOURNAL:
                raise Violation(f"I9: the journal has grown to {server.journal_bytes} bytes")
        if self._done(event):
            server.stop()

    def _done(self, event: Event) -> bool:
        if self._chance.active:
            return self.over
        return isinstance(event, MergeEvent)

    def _patience(self) -> float:
        return _PATIENCE if self._chance.active else _RECOVERY_SECONDS


@contextmanager
def silence(*names: str) -> Iterator[None]:
    """Keep what processes log of their faults to themselves."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
