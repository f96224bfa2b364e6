"""A calendar queue: the near events in one sorted list, far ones in unsorted buckets of time.

A heap over every task under way costs a cache miss per level; here an event is touched when it is
pushed and when its bucket is sorted (Brown, *Calendar queues*, CACM 31(10), 1988, is the idea).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from heapq import heappop, heappush

Event = tuple[float, int]
"""Time due and a number of the owner's; delivered in this order."""


class EventQueue:
    """A priority queue of events.

    Parameters
    ----------
    width : float
        Length of a bucket in virtual time, above 0. Changes speed, never the order.
    """

    def __init__(self, width: float) -> None:
        self._days_per_second = 1.0 / width
        # Both numbers negated: the next event is then the last of an ascending list.
        self._near: list[Event] = []
        self._today = -1
        self._far: dict[int, list[Event]] = {}
        self._days: list[int] = []

    def push(self, due: float, number: int) -> None:
        """Add an event."""
        day = int(due * self._days_per_second)
        if day <= self._today:
            insort(self._near, (-due, -number))
            return
        bucket = self._far.get(day)
        if bucket is None:
            self._far[day] = [(-due, -number)]
            heappush(self._days, day)
        else:
            bucket.append((-due, -number))

    def pop(self) -> Event | None:
        """Take the next event; None when there is none."""
        if not self._near and not self._open():
            return None
        due, number = self._near.pop()
        return -due, -number

    def ahead(self) -> Iterator[Event]:
        """Yield the events in order without taking them; nothing may change meanwhile."""
        place = 0
        while place < len(self._near) or self._open():
            place += 1
            due, number = self._near[-place]
            yield -due, -number

    def _open(self) -> bool:
        """Bring the next bucket in."""
        if not self._days:
            return False
        self._today = heappop(self._days)
        bucket = self._far.pop(self._today)
        bucket.sort()
        self._near[:0] = bucket
        return True
