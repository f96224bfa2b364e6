"""The scheduler for fleets of which many clients are away at a time.

Looking for somebody who is there among all idle clients takes a time that grows with their number.
Here a client that was found away is put aside until it comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush

import numpy as np

from fl_sim.simulation.events import Choice
from fl_sim.simulation.fleet import Clients, Times
from fl_sim.simulation.intermittent import IntermittentFleet
from fl_sim.simulation.scheduler import Scheduler


class WaitingScheduler(Scheduler):
    """A `Scheduler` that draws among the idle clients that are not known to be away.

    Parameters
    ----------
    fleet : IntermittentFleet
        Durations, failures, windows and sessions.
    in_flight, seed, rounds, work, selector
        As for `Scheduler`.
    """

    def __init__(
        self,
        fleet: IntermittentFleet,
        in_flight: int,
        seed: int = 0,
        *,
        rounds: bool = False,
        work: Callable[[int, float], float] | None = None,
        selector: Choice | None = None,
    ) -> None:
        super().__init__(fleet, in_flight, seed, rounds=rounds, work=work, selector=selector)
        self._back_at = fleet.ready_at
        # A heap of who is away, and until when.
        self._away: list[tuple[float, int]] = []

    def fill(self) -> int:
        """Hand the current version to idle clients until `in_flight` tasks are under way."""
        away = self._away
        while away and away[0][0] <= self.now:
            self._idle.add(heappop(away)[1])
        begun = super().fill()
        if away and self._busy < self._most():
            self._set_alarm(away[0][0])
        return begun

    def _put_back(self, clients: Clients, ready: Times) -> None:
        later = (ready > self.now) & (ready < math.inf)
        for entry in zip(ready[later].tolist(), clients[later].tolist(), strict=True):
            heappush(self._away, entry)

    def _turn_away(self, client: int) -> None:
        self._num_tasks[client] -= 1
        back_at = self._back_at(client, self.now)
        if back_at <= self.now:
            self._idle.add(client)
        elif back_at < math.inf:
            heappush(self._away, (back_at, client))

    def _search(self) -> bool:
        """Put everybody aside who is away, and deal one of the others, if there are any."""
        while self._hand:
            self._turn_away(self._hand.pop()[0])
        idle = np.array(self._idle.all(), np.int64)
        ready = self._fleet.ready(idle, self.now)
        self._put_back(idle, ready)
        self._idle.keep(idle[ready <= self.now])
        if not len(self._idle):
            return False
        if self._selector is None:
            self._take(self._idle.draw(1))
            return True
        client = self._selector.choose(self._idle.all(), self.now)
        self._idle.remove(client)
        self._take([client])
        return True
