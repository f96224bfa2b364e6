"""An event queue in arrays: for a scheduler that takes and adds events by the hundred."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fl_sim.simulation.event_queue import Event
from fl_sim.simulation.fleet import Clients, Times

# Events sorted at a time. Fewer, and the far ones are searched more often; more, and an event
# that falls among them costs more.
_NEAR = 4096


class ArrayQueue:
    """The events of an `EventQueue`, in the same order, the next few thousand of them sorted."""

    def __init__(self) -> None:
        self._near = np.empty(0), np.empty(0, np.int64)
        self._place = 0
        # No far event is due before this, and no near one after it.
        self._bound = -np.inf
        self._far = np.empty(256), np.empty(256, np.int64)
        self._num_far = 0

    def push(self, due: float, number: int) -> None:
        """Add an event."""
        place = self._num_far
        if due <= self._bound or place == len(self._far[0]):
            self.push_many(np.array([due]), np.array([number]))
            return
        self._far[0][place], self._far[1][place] = due, number
        self._num_far = place + 1

    def push_many(self, due: Times, numbers: Clients) -> None:
        """Add events, in any order."""
        near = due <= self._bound
        if near.any():
            dues, owners = self._ahead()
            self._near = _sorted(
                np.concatenate([dues, due[near]]), np.concatenate([owners, numbers[near]])
            )
            self._place = 0
            due, numbers = due[~near], numbers[~near]
        end = self._num_far + len(due)
        if end > len(self._far[0]):
            self._far = np.resize(self._far[0], 2 * end), np.resize(self._far[1], 2 * end)
        self._far[0][self._num_far : end] = due
        self._far[1][self._num_far : end] = numbers
        self._num_far = end

    def peek(self) -> tuple[Times, Clients]:
        """Return some of the next events without taking them: due times and numbers."""
        if self._place == len(self._near[0]):
            self._open()
        return self._ahead()

    def drop(self, count: int) -> None:
        """Take the next `count` events of `peek`."""
        self._place += count

    def pop(self) -> Event | None:
        """Take the next event; None when there is none."""
        dues, numbers = self.peek()
        if not len(dues):
            return None
        self._place += 1
        return dues.item(0), numbers.item(0)

    def ahead(self) -> Iterator[Event]:
        """Yield the events in order without taking them; nothing may change meanwhile."""
        place = self._place
        while True:
            if place == len(self._near[0]):
                before = place - self._place
                if not self._open():
                    return
                place = self._place + before
            yield self._near[0].item(place), self._near[1].item(place)
            place += 1

    def _ahead(self) -> tuple[Times, Clients]:
        return self._near[0][self._place :], self._near[1][self._place :]

    def _open(self) -> bool:
        """Bring the next of the far events in, behind what is near."""
        due, numbers = self._far[0][: self._num_far], self._far[1][: self._num_far]
        if not self._num_far:
            return False
        last = min(_NEAR, self._num_far) - 1
        self._bound = np.partition(due, last)[last]
        near = due <= self._bound
        dues, owners = _sorted(due[near], numbers[near])
        before = self._ahead()
        self._near = np.concatenate([before[0], dues]), np.concatenate([before[1], owners])
        self._place = 0
        self._num_far -= len(dues)
        self._far[0][: self._num_far] = due[~near]
        self._far[1][: self._num_far] = numbers[~near]
        return True


def _sorted(due: Times, numbers: Clients) -> tuple[Times, npt.NDArray[np.int64]]:
    order = np.argsort(due, kind="stable")
    if (np.diff(due[order]) == 0.0).any():
        order = np.lexsort((numbers, due))
    return due[order], numbers[order]
