"""What a seed gives, and what several seeds give together."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from fl_sim.simulation.outcomes import REFUSALS
from strategies.reject import Reject, sentence


@dataclass(frozen=True)
class SeedResult:
    """One run; times are in median task durations.

    Attributes
    ----------
    strategy : str
        Name of the recipe.
    seed : int
        Seed of data, devices, training and dispatch.
    config : str
        Key of the configuration, see `SimulationConfig.key`; empty for a client task of one's own,
        which it does not cover.
    backend : str
        How cohorts were trained; results of different backends differ in rounding.
    final_accuracy : float
        Accuracy of the last published model, or what the task's own metric says of it.
    time_to_target : float or None
        Time of the first evaluation at or above the target.
    updates : int
        Updates delivered.
    versions : int
        Model versions made.
    outcomes : dict
        Number of tasks ended, by outcome.
    fairness : float
        Jain's index of the clients' numbers of accepted updates: 1 if all took part alike.
    wall_seconds : float
        Duration of the run, without loading the data.
    digest : str
        SHA-256 over events and models.
    accuracies : list of (time, accuracy)
        The learning curve.
    utilisation : float or None
        Share of the clients' time, see `Fleet.lifetime`, in which they had a task; None in results
        of earlier versions, which did not count it.
    source : str
        SHA-256 of the file of a recipe of one's own; empty for those of the catalogue.
    """

    __pydantic_config__: ClassVar = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    strategy: str
    seed: int
    config: str
    backend: str
    final_accuracy: float
    time_to_target: float | None
    updates: int
    versions: int
    outcomes: dict[str, int]
    fairness: float
    wall_seconds: float
    digest: str
    accuracies: Annotated[list[tuple[float, float]], Field(min_length=1)]
    utilisation: float | None = None
    source: str = ""

    def row(self) -> dict[str, Any]:
        """Return the run as one JSON object."""
        return asdict(self)

    @property
    def complaint(self) -> str | None:
        """What to say of updates that were refused for more than their staleness, if any were."""
        refused = {code: self.outcomes[code] for code in self.outcomes if code in REFUSALS}
        if not refused:
            return None
        reasons = " ".join(f"{code} ({n}): {sentence(Reject(code))}" for code, n in refused.items())
        untrained = "" if self.versions else " The accuracy is that of the untrained model."
        total = f"{sum(refused.values())} of {self.updates} updates were refused"
        return f"seed {self.seed}: {total}. {reasons}{untrained}"


@dataclass(frozen=True)
class SimulationResult:
    """Several seeds of one strategy.

    Attributes
    ----------
    strategy : str
        Name of the recipe.
    runs : tuple of SeedResult
        One per seed.
    """

    strategy: str
    runs: tuple[SeedResult, ...]

    def summary(self) -> dict[str, Any]:
        """Return the figures as one JSON object.

        The median time counts a seed that never arrives as infinite; it is None when that makes
        it infinite. Updates per second are those of one process: all updates by the time that all
        runs took, one after the other.
        """
        updates = sum(run.updates for run in self.runs)
        seconds = sum(run.wall_seconds for run in self.runs)
        return {
            "strategy": self.strategy,
            "seeds": [run.seed for run in self.runs],
            "final_accuracy": _mean_and_spread([run.final_accuracy for run in self.runs]),
            "time_to_target": _times([run.time_to_target for run in self.runs]),
            "updates": updates,
            "updates_per_second": updates / seconds if seconds else 0.0,
            "digest": [run.digest for run in self.runs],
            "backend": sorted({run.backend for run in self.runs}),
            "fairness": _mean_and_spread([run.fairness for run in self.runs]),
            "outcomes": dict(sum((Counter(run.outcomes) for run in self.runs), Counter[str]())),
        }


def _mean_and_spread(values: Sequence[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": spread}


def _times(times: Sequence[float | None]) -> dict[str, Any]:
    median = statistics.median(math.inf if time is None else time for time in times)
    return {
        "median": median if math.isfinite(median) else None,
        "reached": sum(time is not None for time in times),
    }
