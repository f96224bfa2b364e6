"""What a scheduler yields, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from fl_sim.simulation.fleet import Clients, TaskDraw, Times

NOBODY = -1


class TaskTimes(Protocol):
    """Device behaviour as the scheduler sees it; times are virtual seconds."""

    def __len__(self) -> int:
        """Number of clients."""
        ...

    @property
    def median_task(self) -> float:
        """Time of a typical task."""
        ...

    def tasks(self, clients: Sequence[int], numbers: Sequence[int]) -> list[TaskDraw]:
        """Draw what is random about the clients' tasks of these numbers."""
        ...

    def begin(self, task: TaskDraw, now: float, work: float) -> tuple[float, bool] | None:
        """Return when a task begun at `now` ends and if it delivers.

        `work` is its share of a full task. None if the client is offline or
        away; inf if it is dead.
        """
        ...

    def ready(self, clients: Sequence[int] | Clients, now: float) -> Times:
        """Return the first times from `now` on at which clients can begin; inf for never."""
        ...


class Choice(Protocol):
    """Chooses among idle clients, and is told what became of their tasks."""

    def choose(self, candidates: Iterable[int], now: float) -> int:
        """Return the client to hand a task to at the time `now`."""
        ...

    def ended(self, client: int, now: float, *, delivered: bool) -> None:
        """Take note of the end of a task."""
        ...


class Queue(Protocol):
    """Events in order of time due and number; see `EventQueue`."""

    def push(self, due: float, number: int) -> None:
        """Add an event."""
        ...

    def pop(self) -> tuple[float, int] | None:
        """Take the next event; None when there is none."""
        ...

    def ahead(self) -> Iterator[tuple[float, int]]:
        """Yield the events in order without taking them."""
        ...


class Hand(Protocol):
    """Tasks drawn and not begun."""

    def __len__(self) -> int:
        """Number of tasks."""
        ...

    def pop(self) -> TaskDraw:
        """Take the next to begin."""
        ...


class Event(NamedTuple):
    """Something that happened.

    Attributes
    ----------
    time : float
        Virtual time in seconds.
    client : int
        The client whose task ended, or `NOBODY` when somebody merely asked to be woken.
    base_version : int
        The version the client was given.
    delivered : bool
        False when the task broke off or the client died: there is no update.
    """

    time: float
    client: int
    base_version: int
    delivered: bool
