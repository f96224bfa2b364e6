"""Many worlds, side by side, and what came out of all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

from fl_sim.faults.confidential.mutants import CONFIDENTIAL_MUTANTS
from fl_sim.faults.confidential.world import ConfidentialWorld
from fl_sim.faults.mutants import MUTANTS, Mutant, planted
from fl_sim.faults.world import Report, World


@dataclass
class Summary:
    """What came out of some seeds.

    Attributes
    ----------
    seeds, hours : int, float
        Worlds, and virtual hours in all of them.
    updates, acknowledged, versions, replayed, crashes : int
        As in `fl_sim.faults.world.Report`, added up.
    faults : Counter of str
        Faults by kind.
    seconds : float
        Wall-clock time.
    broken : list of Report
        Worlds in which an invariant broke.
    """

    seeds: int = 0
    hours: float = 0.0
    updates: int = 0
    acknowledged: int = 0
    versions: int = 0
    replayed: int = 0
    crashes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    broken: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Take a world in."""
        self.seeds += 1
        self.hours += report.hours
        self.updates += report.updates
        self.acknowledged += report.acknowledged
        self.versions += report.versions
        self.replayed += report.replayed
        self.crashes += report.crashes
        self.faults.update(report.faults)
        if report.violation:
            self.broken.append(report)

    def members(self) -> dict[str, Any]:
        """Return it as JSON data."""
        broken = [{"seed": report.seed, "violation": report.violation} for report in self.broken]
        return {
            **{k: v for k, v in vars(self).items() if k not in ("faults", "broken")},
            "faults": dict(sorted(self.faults.items())),
            "broken": broken,
        }


def mutants(confidential: bool) -> Mapping[str, Mutant]:
    """Return the bugs that can be planted."""
    return CONFIDENTIAL_MUTANTS if confidential else MUTANTS


def simulate(
    seeds: int,
    minutes: float,
    *,
    first_seed: int,
    mutant: str | None,
    workers: int,
    confidential: bool = False,
) -> Iterator[Summary]:
    """Run worlds; yields the summary so far after each.

    Parameters
    ----------
    seeds : int
        Number of worlds.
    minutes : float
        Virtual minutes under faults in each.
    first_seed : int
        Seed of the first; the others count on from there.
    mutant : str, optional
        A bug to plant, of `mutants`.
    workers : int
        Processes. The outcome does not depend on their number.
    confidential : bool
        Whether the worlds are confidential.
    """
    summary, started = Summary(), time.perf_counter()
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        worlds = range(first_seed, first_seed + seeds)
        world = partial(_world, minutes / 60, mutant, confidential)
        for report in pool.map(world, worlds):
            summary.add(report)
            summary.seconds = time.perf_counter() - started
            yield summary


def _world(hours: float, mutant: str | None, confidential: bool, seed: int) -> Report:
    with planted(mutant, mutants(confidential)):
        world = ConfidentialWorld(seed, hours) if confidential else World(seed, hours)
        return world.run()
