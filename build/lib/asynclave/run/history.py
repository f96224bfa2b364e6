"""What happened in a run, in the form that progress, plots and report read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a model version at a virtual time."""

    time: float
    version: int
    accuracy: float
    loss: float


@dataclass
class History:
    """Everything observed of one strategy's run. Times are in median task durations.

    ``recalled`` of the updates came before the run was cut off and continued; ``wall_seconds``
    does not cover them.
    """

    name: str
    evaluations: list[Evaluation] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    participation: Counter[str] = field(default_factory=Counter)
    wall_seconds: float = 0.0
    digest: str = ""
    recalled: int = 0

    @property
    def updates(self) -> int:
        """Updates that were offered, accepted or not."""
        return sum(self.codes.values())

    @property
    def accepted(self) -> int:
        """Updates that were accepted."""
        return self.codes["accepted"]

    @property
    def best_accuracy(self) -> float:
        """Highest accuracy of any evaluated version; 0 before the first evaluation."""
        return max((point.accuracy for point in self.evaluations), default=0.0)

    @property
    def final_accuracy(self) -> float:
        """Accuracy of the last evaluated version; 0 before the first evaluation."""
        return self.evaluations[-1].accuracy if self.evaluations else 0.0

    def time_to(self, accuracy: float) -> float | None:
        """Virtual time of the first evaluation that reached ``accuracy``, or None."""
        return next((p.time for p in self.evaluations if p.accuracy >= accuracy), None)

    def seconds_per_update(self) -> float:
        """Wall-clock seconds spent per offered update."""
        return self.wall_seconds / max(1, self.updates - self.recalled)


@dataclass(frozen=True)
class SpeedUp:
    """How many times sooner one strategy reached an accuracy than another."""

    target: float
    asynchronous: float
    synchronous: float

    @property
    def ratio(self) -> float:
        """Synchronous time over asynchronous time."""
        return self.synchronous / self.asynchronous


def speed_up(
    asynchronous: History, synchronous: History, target: float | None = None
) -> SpeedUp | None:
    """Compare the times to the same accuracy.

    Parameters
    ----------
    asynchronous, synchronous : History
        Runs on the same virtual devices.
    target : float, optional
        The accuracy to compare at; by default the best that the synchronous run reached, or the
        asynchronous run's best if that is lower.

    Returns
    -------
    SpeedUp or None
        None if either run never reached the target.
    """
    if target is None:
        target = min(synchronous.best_accuracy, asynchronous.best_accuracy)
    times = asynchronous.time_to(target), synchronous.time_to(target)
    if times[0] is None or times[1] is None or times[0] <= 0:
        return None
    return SpeedUp(target, times[0], times[1])
