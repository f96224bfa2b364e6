"""Which examples a task sees in which step: exactly those of ``fl_client.trainer``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from fl_client.trainer import TrainSettings, passes, task_seed
from fl_sim.cohort.base import ClientData, Rows, Task


class StepPlan:
    """Draws the batches of tasks, padded to one width.

    Parameters
    ----------
    data : ClientData
        Who holds which examples; nobody none.
    settings : TrainSettings
        Batch size, steps of a task that does not say its own (must be set), and seed.

    Attributes
    ----------
    width : int
        Rows of the largest batch of any client.
    """

    def __init__(self, data: ClientData, settings: TrainSettings) -> None:
        assert settings.steps is not None
        self.steps = settings.steps
        self._data = data
        self._settings = {settings.steps: settings}
        self._default = settings
        self._generator = torch.Generator()
        sizes, batch = data.sizes(), settings.batch_size
        odd = bool(np.any((sizes > batch) & (sizes % batch == 1)))
        self.width = batch + 1 if odd else min(batch, int(sizes.max()))

    def seed(self, task: Task) -> int:
        """Return the seed of a task's data order and dropout masks."""
        return task_seed(self._default.seed, str(task.client), task.base_version)

    def steps_of(self, task: Task) -> int:
        """Return the number of steps of a task."""
        return self.steps if task.steps is None else task.steps

    def batches(self, task: Task) -> list[Rows]:
        """Return the example numbers of each step of a task."""
        rows = self._data.of(task.client)
        order = self._generator.manual_seed(self.seed(task))
        settings = self._settings_for(self.steps_of(task))
        return [
            rows[batch.numpy()]
            for one_pass in passes(len(rows), settings, order)
            for batch in one_pass
        ]

    def padded(self, tasks: Sequence[Task], slots: int) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Return the batches of a cohort with one shape.

        Parameters
        ----------
        tasks : sequence of Task
            The tasks.
        slots : int
            Size to pad the cohort to.

        Returns
        -------
        rows : ndarray of int64, shape (most steps of any task, slots, width)
            Example numbers; example 0 where there is none.
        weights : ndarray of float32, shape (steps, slots, width)
            One divided by the size of the batch; 0 where there is no example.
        """
        steps = max(map(self.steps_of, tasks))
        rows = np.zeros((steps, slots, self.width), np.int64)
        weights = np.zeros((steps, slots, self.width), np.float32)
        for slot, task in enumerate(tasks):
            for step, batch in enumerate(self.batches(task)):
                rows[step, slot, : len(batch)] = batch
                weights[step, slot, : len(batch)] = 1.0 / len(batch)
        return rows, weights

    def _settings_for(self, steps: int) -> TrainSettings:
        if steps not in self._settings:
            self._settings[steps] = replace(self._default, steps=steps)
        return self._settings[steps]
