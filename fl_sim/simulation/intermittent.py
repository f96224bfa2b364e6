"""Fleets whose clients are there by windows, or join, leave and come back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fl_sim.simulation.availability import Windows, windows_of_duty
from fl_sim.simulation.churn import Sessions
from fl_sim.simulation.fleet import Clients, Fleet, TaskDraw, Times
from fl_sim.simulation.intervals import Both, Intervals


@dataclass(frozen=True)
class IntermittentFleet(Fleet):
    """A `Fleet` with windows of availability, with churn, or with both.

    A client works on its task while it is in a session, not dead, and online by its windows or
    duty cycle. At the end of a session the task is lost; outside windows it pauses, as it does by a
    duty cycle. Who has no more windows is gone for good, as by death.

    Attributes
    ----------
    windows : Windows, optional
        When each client is online; those of its duty cycle if unset.
    sessions : Sessions, optional
        When each client takes part; from the beginning to its death if unset.
    """

    windows: Windows | None = None
    sessions: Sessions | None = None
    _online: Windows | None = field(init=False, repr=False, compare=False)
    _there: Intervals = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        windows, sessions = self.windows, self.sessions
        if windows is not None:
            dies_at = self._devices[:, 2]
            np.minimum(dies_at, windows.leaves(), out=dies_at)
        elif self.duty is not None:
            windows = windows_of_duty(self.duty, self._devices[:, 4], self.period)
        there: Intervals
        if windows is None:
            there = Sessions(np.zeros(len(self))) if sessions is None else sessions
        else:
            there = windows if sessions is None else Both(sessions, windows)
        object.__setattr__(self, "_online", windows)
        object.__setattr__(self, "_there", there)

    def lifetime(self, until: float) -> float:
        """Return the clients' time until `until` in all: that of their sessions until death.

        With windows it begins when the first one opens; pauses count.
        """
        ends = np.minimum(self._devices[:, 2], until)
        joins = np.zeros(len(self)) if self.windows is None else self.windows.joins()
        if self.sessions is None:
            return float(np.maximum(ends - joins, 0.0).sum())
        return self.sessions.time_within(joins, ends)

    def coming(self, until: float) -> int:
        """Return how many clients have a window that opens before `until` and before they die."""
        if self.windows is None:
            return len(self)
        return int(np.count_nonzero(self.windows.joins() < np.minimum(self._devices[:, 2], until)))

    def begin(self, task: TaskDraw, now: float, work: float = 1.0) -> tuple[float, bool] | None:
        """Return when a task begun at `now` ends and if it delivers; see `Fleet`.

        None too if the client has left and may come back.
        """
        client, compute, transfer, broken, leaves, _, _ = task
        if now >= leaves:
            return math.inf, False
        opens, closes = self._there.at(client, now)
        if opens > now:
            return None
        needed = compute * work + transfer
        if broken < 1.0:
            needed *= broken
        due = now + needed
        if due > closes:
            if self.sessions is not None:
                leaves = min(leaves, self.sessions.at(client, now)[1])
            if self._online is not None:
                due = self._online.end(client, now, needed)
        return (due, broken > 1.0) if due <= leaves else (leaves, False)

    def ready(self, clients: Sequence[int] | Clients, now: float) -> Times:
        """Return when, from `now` on, each of the clients can begin a task; inf for never."""
        clients = np.asarray(clients, np.int64)
        ready = self._there.ready(clients, now)
        return np.where(ready < self._devices[clients, 2], ready, math.inf)

    def ready_at(self, client: int, now: float) -> float:
        """Return when, from `now` on, a client can begin a task; inf for never."""
        ready = max(now, self._there.at(client, now)[0])
        return ready if ready < self._devices.item(client, 2) else math.inf

    def _leaves_at(self, client: int, now: float) -> float:
        dies_at = super()._leaves_at(client, now)
        if self.sessions is None or now >= dies_at:
            return dies_at
        return min(dies_at, self.sessions.at(client, now)[1])
