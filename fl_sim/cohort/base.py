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
Values = npt.NDArray[np.float32] | npt.NDArray[np.int64]
TestData = tuple[Values, Values]
"""Inputs and labels of the test examples."""


@dataclass(frozen=True)
class ClientData:
    """Examples shared by all clients and who holds which.

    Attributes
    ----------
    inputs : ndarray of float32 or int64, shape (n, ...)
        Model inputs: numbers, or codes of symbols.
    labels : ndarray of int64 or float32, shape (n, ...)
        What the outputs are held against: class numbers, shape (n,), or numbers to be predicted.
    rows : ndarray of int64
        Example numbers, client after client.
    starts : ndarray of int64, shape (clients + 1,)
        Where each client's part of `rows` begins.
    """

    inputs: Values
    labels: Values
    rows: Rows
    starts: Rows

    @classmethod
    def joined(cls, clients: Sequence[tuple[Values, Values]]) -> ClientData:
        """Return the inputs and labels of one client after the other as one."""
        inputs, labels = (np.concatenate(part) for part in zip(*clients, strict=True))
        starts = np.cumsum([0, *(len(part) for part, _ in clients)])
        return cls(inputs, labels, np.arange(len(inputs)), starts)

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
        """Return what the metric says of each model, shape (n, P), on the test examples.

        Unless the problem has a metric of its own, the share that the model gets right.
        """
        ...
