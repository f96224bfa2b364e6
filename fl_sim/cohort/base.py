"""What a cohort trainer is given and gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from strategies.update import Vector

Rows = npt.NDArray[np.int64]
Models = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClientData:
    """Examples shared by all clients and who holds which.

    Attributes
    ----------
    inputs : ndarray of float32, shape (n, ...)
        Model inputs.
    labels : ndarray of int64, shape (n,)
        Class numbers.
    rows : ndarray of int64
        Example numbers, client after client.
    starts : ndarray of int64, shape (clients + 1,)
        Where each client's part of `rows` begins.
    """

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    rows: Rows
    starts: Rows

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.starts) - 1

    def of(self, client: int) -> Rows:
        """Return the example numbers of a client."""
        return self.rows[self.starts[client] : self.starts[client + 1]]

    def sizes(self) -> Rows:
        """Return the number of examples of each client."""
        return np.diff(self.starts)


class Task(NamedTuple):
    """One local training.

    Attributes
    ----------
    base : Vector
        The model it starts from, shape (P,).
    client : int
        The client.
    base_version : int
        Version of that model.
    steps : int, optional
        Local steps to take, at least 1; those of the configuration if unset. The first steps of
        a longer task are those of a shorter one.
    """

    base: Vector
    client: int
    base_version: int
    steps: int | None = None


class CohortTrainer(Protocol):
    """Trains the tasks of a cohort.

    A task's result is the same, bit for bit, whoever else is in the cohort. Different trainers
    agree to float tolerance only, because they sum in different orders.
    """

    @property
    def name(self) -> str:
        """Name under which a configuration pins it."""
        ...

    @property
    def steps(self) -> int:
        """Local steps of a task that does not say its own."""
        ...

    def train(self, tasks: Sequence[Task], out: Sequence[Vector]) -> None:
        """Write trained minus base model of each task, shape (P,).

        Parameters
        ----------
        tasks : sequence of Task
            At most as many as the cohort size.
        out : sequence of Vector
            Where the deltas go, one per task.
        """
        ...

    def accuracies(self, models: Models) -> list[float]:
        """Return the share of the test examples that each model, shape (n, P), gets right."""
        ...
