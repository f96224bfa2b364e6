"""When each client is there, as intervals of time: what windows and sessions have in common.

Intervals are in ascending order, without an end where they repeat or are drawn. For each client
only the one that time has reached is kept, so memory does not grow with the run. Asking in order
of time is fast; asking in any other order gives the same answers.
"""

from __future__ import annotations

import math
from array import array

import numpy as np

from fl_sim.simulation.fleet import Clients, Times


class Intervals:
    """Intervals of time of every client, opening times included, closing times not.

    Parameters
    ----------
    count : int
        Number of clients.
    """

    def __init__(self, count: int) -> None:
        # The interval at hand of each client: its number, when it opens and closes, and when the
        # one before it closed. It is the right one for any time since then until it closes; at
        # first for none.
        self._numbers = array("q", bytes(8 * count))
        self._since = array("d", [math.inf]) * count
        self._opens = array("d", [math.inf]) * count
        self._closes = array("d", [math.inf]) * count
        self._columns = [np.frombuffer(a) for a in (self._since, self._opens, self._closes)]

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, client: int, now: float) -> tuple[float, float]:
        """Return when the first interval that closes after `now` opens and closes; inf for none."""
        if not self._since[client] <= now < self._closes[client]:
            self._find(client, now)
        return self._opens[client], self._closes[client]

    def ready(self, clients: Clients, now: float) -> Times:
        """Return when, from `now` on, each of the clients is there; inf for never."""
        since, opens, closes = self._columns
        unknown = ~((since[clients] <= now) & (now < closes[clients]))
        for client in clients[unknown].tolist():
            self._find(client, now)
        return np.maximum(opens[clients], now)

    def _find(self, client: int, now: float) -> None:
        """Take the first interval that closes after `now` to hand."""
        raise NotImplementedError

    def _take(self, client: int, number: int, since: float, opens: float, closes: float) -> None:
        self._numbers[client], self._since[client] = number, since
        self._opens[client], self._closes[client] = opens, closes


class Both(Intervals):
    """What is common to two kinds of intervals of the same clients."""

    def __init__(self, one: Intervals, other: Intervals) -> None:
        super().__init__(len(one))
        self._one, self._other = one, other

    def _find(self, client: int, now: float) -> None:
        time = now
        while True:
            one, other = self._one.at(client, time), self._other.at(client, time)
            opens, closes = max(one[0], other[0]), min(one[1], other[1])
            if opens < closes or opens == math.inf:
                break
            time = opens
        self._take(client, 0, now, opens, closes)
