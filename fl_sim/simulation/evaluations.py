"""The accuracy of published models over time, worked out a few models at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fl_sim.cohort.base import CohortTrainer
from fl_sim.simulation.config import RunSection
from strategies.update import Vector

# One product of eight models takes half the time of eight; more gain little.
_MODELS = 8
_FLOATS = 1 << 22


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of the model published at a time (virtual seconds)."""

    time: float
    version: int
    accuracy: float


class Evaluations:
    """Takes models in order of time, and tells their accuracies a little later.

    Parameters
    ----------
    trainer : CohortTrainer
        Knows the test examples.
    num_params : int
        Size of the model.
    tell : callable, optional
        Told of every evaluation, in order.

    Attributes
    ----------
    known : list of Evaluation
        In order of time; the newest are missing until `finish`.
    """

    def __init__(
        self,
        trainer: CohortTrainer,
        num_params: int,
        tell: Callable[[Evaluation], None] | None = None,
    ) -> None:
        self._trainer, self._tell = trainer, tell
        most = max(1, min(_MODELS, _FLOATS // num_params))
        self._models = np.empty((most, num_params), np.float32)
        # What is not told yet: time, version, and row of the models.
        self._asked: list[tuple[float, int, int]] = []
        self._rows = 0
        self.known: list[Evaluation] = []

    def __len__(self) -> int:
        """Return the number of evaluations asked for."""
        return len(self.known) + len(self._asked)

    @property
    def version(self) -> int | None:
        """Version asked for last; None before the first."""
        if self._asked:
            return self._asked[-1][1]
        return self.known[-1].version if self.known else None

    def add(self, time: float, version: int, published: Vector) -> None:
        """Ask for the accuracy of a model, which is copied."""
        if self._rows == len(self._models):
            self.finish()
        self._models[self._rows] = published
        self._asked.append((time, version, self._rows))
        self._rows += 1

    def repeat(self, time: float) -> None:
        """Note that the model asked for last is still the one that is published."""
        if self._asked:
            _, version, row = self._asked[-1]
            self._asked.append((time, version, row))
        else:
            last = self.known[-1]
            self._note(Evaluation(time, last.version, last.accuracy))

    def finish(self) -> None:
        """Work out and tell what was asked for."""
        if not self._asked:
            return
        accuracies = self._trainer.accuracies(self._models[: self._rows])
        asked, self._asked, self._rows = self._asked, [], 0
        for time, version, row in asked:
            self._note(Evaluation(time, version, accuracies[row]))

    def _note(self, evaluation: Evaluation) -> None:
        self.known.append(evaluation)
        if self._tell is not None:
            self._tell(evaluation)


def learning_curve(
    evaluations: Sequence[Evaluation], horizon: float, section: RunSection
) -> list[tuple[float, float]]:
    """Return times and accuracies of a run.

    Parameters
    ----------
    evaluations : sequence of Evaluation
        In order of time: one at every multiple of ``evaluate_every``, and that of the end.
    horizon : float
        Seconds after which the run was to end.
    section : RunSection
        The same, and ``evaluate_every``, in median tasks.

    Returns
    -------
    list of (float, float)
        Times in median tasks, without the rounding errors of dividing seconds.
    """
    *_, last = evaluations
    end = section.virtual_time * (last.time / horizon)
    times = [index * section.evaluate_every for index in range(len(evaluations) - 1)]
    accuracies = [evaluation.accuracy for evaluation in evaluations]
    return list(zip([*times, end], accuracies, strict=True))
