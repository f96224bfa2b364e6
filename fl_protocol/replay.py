"""Things that may be used once: proofs, grants, signed requests."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Protocol

from fl_protocol.codes import Code, GatewayUnavailable


class OneUse(Protocol):
    """Says whether something is used for the first time."""

    def use(self, thing: str, now: float) -> bool:
        """Use something up at `now` (seconds); False if it was used before."""
        ...


class ReplayMemory:
    """Remembers what was used for as long as it could be used again.

    The clock may step forward and back: what was used ahead of time stays until its own time has
    passed, and keeps nothing else.

    Parameters
    ----------
    seconds : float
        How long something can be valid after its first use.
    capacity : int
        The most things remembered; a full memory refuses rather than forget a live one.
    """

    def __init__(self, seconds: float, capacity: int = 100_000) -> None:
        self._seconds, self._capacity = seconds, capacity
        self._used: set[Hashable] = set()
        self._oldest: list[tuple[float, int, Hashable]] = []
        self._number = itertools.count()

    def use(self, thing: Hashable, now: float) -> bool:
        """Use something up at `now` (seconds); False if it was used before.

        Raises
        ------
        GatewayUnavailable
            ``OVERLOADED`` when too many live things are remembered.
        """
        while self._oldest and self._oldest[0][0] + self._seconds < now:
            self._used.discard(heapq.heappop(self._oldest)[2])
        if thing in self._used:
            return False
        if len(self._used) >= self._capacity:
            raise GatewayUnavailable(Code.OVERLOADED)
        self._used.add(thing)
        heapq.heappush(self._oldest, (now, next(self._number), thing))
        return True
