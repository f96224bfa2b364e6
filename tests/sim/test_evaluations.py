from collections.abc import Sequence

import numpy as np
import pytest

from fl_sim.cohort.base import Models, Task
from fl_sim.simulation.evaluations import Evaluation, Evaluations
from strategies.update import Vector


class FirstEntry:
    """Takes the first parameter for the accuracy."""

    name = "first-entry"
    steps = 1

    def __init__(self) -> None:
        self.calls: list[int] = []

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        raise NotImplementedError

    def accuracies(self, models: Models) -> list[float]:
        self.calls.append(len(models))
        return [float(model[0]) for model in models]


@pytest.mark.parametrize("num_params", [2, 1 << 22])
def test_every_evaluation_is_told_in_order(num_params: int) -> None:
    told: list[Evaluation] = []
    evaluations = Evaluations(FirstEntry(), num_params, told.append)
    model = np.zeros(num_params, np.float32)
    expected = []
    for time in range(21):
        if time % 2:
            evaluations.repeat(time)
        else:
            # The same memory each time, as the engine may have it.
            model[0] = time
            evaluations.add(time, time, model)
        expected.append(Evaluation(time, time - time % 2, time - time % 2))
        assert len(evaluations) == time + 1
        assert evaluations.version == time - time % 2
    evaluations.finish()
    evaluations.finish()
    assert evaluations.known == told == expected


def test_models_are_evaluated_together_and_a_version_once() -> None:
    trainer = FirstEntry()
    evaluations = Evaluations(trainer, 1)
    for version in range(10):
        evaluations.add(2.0 * version, version, np.ones(1, np.float32))
        evaluations.repeat(2.0 * version + 1)
    evaluations.finish()
    assert trainer.calls == [8, 2]
    evaluations.repeat(20.0)
    assert evaluations.known[-1] == Evaluation(20.0, 9, 1.0)
    assert trainer.calls == [8, 2]
