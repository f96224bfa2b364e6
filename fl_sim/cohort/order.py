"""Which examples a task sees in which step: exactly those of ``fl_client.trainer``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fl_client.trainer import TrainSettings, pass_sizes, task_seed
from fl_sim.cohort.base import ClientData, Rows, Task


class _Shape(NamedTuple):
    """What the batches of all tasks with as many examples and steps have in common.

    `passes` is the number of examples seen in each pass, `ends` says where each batch ends;
    `places` has where each example seen goes in a padded array of shape (steps, width), and
    `weights`, of this shape, one divided by the size of the example's batch.
    """

    passes: list[int]
    ends: list[int]
    places: Rows
    weights: npt.NDArray[np.float32]


class StepPlan:
    """Draws the batches of tasks, padded to one width.

    Parameters
    ----------
    data : ClientData
        Who holds which examples; nobody none.
    settings : TrainSettings
        Batch size, steps of a task that does not say its own (must be set), and seed.
    multiple : int (default: 1)
        What to round the width up to a multiple of.

    Attributes
    ----------
    steps : int
        Steps of a task that does not say its own.
    width : int
        Rows of the largest batch of any client, rounded up.
    """

    def __init__(self, data: ClientData, settings: TrainSettings, multiple: int = 1) -> None:
        assert settings.steps is not None
        self.steps = settings.steps
        self._data, self._settings = data, settings
        self._generator = torch.Generator()
        self._shapes: dict[tuple[int, int], _Shape] = {}
        sizes, batch = data.sizes(), settings.batch_size
        odd = bool(np.any((sizes > batch) & (sizes % batch == 1)))
        largest = batch + 1 if odd else min(batch, int(sizes.max()))
        self.width = -(-largest // multiple) * multiple

    def seed(self, task: Task) -> int:
        """Return the seed of a task's data order and dropout masks."""
        return task_seed(self._settings.seed, str(task.client), task.base_version)

    def steps_of(self, task: Task) -> int:
        """Return the number of steps of a task."""
        return self.steps if task.steps is None else task.steps

    def tiles(self, tasks: Sequence[Task], most: int) -> Iterator[list[int]]:
        """Yield the places of tasks to train together, as even as can be.

        Parameters
        ----------
        tasks : sequence of Task
            The tasks.
        most : int
            How many can be trained together.

        Yields
        ------
        list of int
            The longest task first: whoever is done drops off the end.
        """
        steps = [self.steps_of(task) for task in tasks]
        order = sorted(range(len(tasks)), key=lambda place: -steps[place])
        size = -(-len(tasks) // -(-len(tasks) // most))
        for start in range(0, len(tasks), size):
            yield order[start : start + size]

    def batches(self, task: Task) -> list[Rows]:
        """Return the example numbers of each step of a task."""
        rows, shape = self._seen(task)
        return np.split(rows, shape.ends[:-1])

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
        weights : ndarray of float32, shape (most steps of any task, slots, width)
            One divided by the size of the batch; 0 where there is no example.
        """
        steps = max(map(self.steps_of, tasks))
        rows = np.zeros((slots, steps * self.width), np.int64)
        weights = np.zeros((slots, steps * self.width), np.float32)
        for slot, task in enumerate(tasks):
            seen, shape = self._seen(task)
            used = shape.weights.size
            # Without gaps, as mostly, a slice is cheaper than a list of places.
            rows[slot, slice(used) if len(seen) == used else shape.places] = seen
            weights[slot, :used] = shape.weights
        padded = (slots, steps, self.width)
        return (
            np.ascontiguousarray(rows.reshape(padded).swapaxes(0, 1)),
            np.ascontiguousarray(weights.reshape(padded).swapaxes(0, 1)),
        )

    def _seen(self, task: Task) -> tuple[Rows, _Shape]:
        """Return the examples of a task one after the other."""
        rows = self._data.of(task.client)
        shape = self._shape(len(rows), self.steps_of(task))
        order = self._generator.manual_seed(self.seed(task))
        shuffled = [
            torch.randperm(len(rows), generator=order).numpy()[:count] for count in shape.passes
        ]
        return rows[shuffled[0] if len(shuffled) == 1 else np.concatenate(shuffled)], shape

    def _shape(self, num_examples: int, steps: int) -> _Shape:
        key = (num_examples, steps)
        if key not in self._shapes:
            passes = pass_sizes(num_examples, replace(self._settings, steps=steps))
            sizes = np.concatenate(passes)
            used = np.arange(self.width) < sizes[:, None]
            weights = np.where(used, np.float32(1.0) / sizes[:, None].astype(np.float32), 0)
            self._shapes[key] = _Shape(
                [sum(batches) for batches in passes],
                np.cumsum(sizes).tolist(),
                np.flatnonzero(used),
                weights.astype(np.float32).ravel(),
            )
        return self._shapes[key]
