"""Which examples a task sees in which step: exactly those of ``fl_client.trainer``."""

from __future__ import annotations

from collections.abc import Sequence

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
        Batch size, steps and seed. `steps` must be set: clients trained together take their
        steps together.

    Attributes
    ----------
    width : int
        Rows of the largest batch of any client.
    """

    def __init__(self, data: ClientData, settings: TrainSettings) -> None:
        assert settings.steps is not None
        self.steps = settings.steps
        self._data, self._settings = data, settings
        self._generator = torch.Generator()
        sizes, batch = data.sizes(), settings.batch_size
        odd = bool(np.any((sizes > batch) & (sizes % batch == 1)))
        self.width = batch + 1 if odd else min(batch, int(sizes.max()))

    def seed(self, task: Task) -> int:
        """Return the seed of a task's data order and dropout masks."""
        return task_seed(self._settings.seed, str(task.client), task.base_version)

    def batches(self, task: Task) -> list[Rows]:
        """Return the example numbers of each step of a task."""
        rows = self._data.of(task.client)
        order = self._generator.manual_seed(self.seed(task))
        return [
            rows[batch.numpy()]
            for one_pass in passes(len(rows), self._settings, order)
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
        rows : ndarray of int64, shape (steps, slots, width)
            Example numbers; example 0 where there is none.
        weights : ndarray of float32, shape (steps, slots, width)
            One divided by the size of the batch; 0 where there is no example.
        """
        rows = np.zeros((self.steps, slots, self.width), np.int64)
        weights = np.zeros((self.steps, slots, self.width), np.float32)
        for slot, task in enumerate(tasks):
            for step, batch in enumerate(self.batches(task)):
                rows[step, slot, : len(batch)] = batch
                weights[step, slot, : len(batch)] = 1.0 / len(batch)
        return rows, weights
