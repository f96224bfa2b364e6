"""Windows of availability: when each client is online, between which its task pauses."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from fl_sim.simulation.fleet import Clients, Times
from fl_sim.simulation.intervals import Intervals

_MOST_PERIODS = 1e9


class Windows(Intervals):
    """Windows of availability, between which a task pauses.

    Parameters
    ----------
    counts : sequence of int
        Number of windows of each client, at least 1.
    opens, closes : sequence of float
        The windows of all clients, those of one client together, in ascending order and not
        overlapping; seconds from 0 on.
    period : float, optional
        After so many seconds, no sooner than the last window closes, all windows come again; never
        if unset.
    """

    def __init__(
        self,
        counts: Sequence[int] | Clients,
        opens: Sequence[float] | Times,
        closes: Sequence[float] | Times,
        period: float = math.inf,
    ) -> None:
        super().__init__(len(counts))
        self._period = period
        bounds = np.concatenate([[0], np.cumsum(counts)])
        self._first = array("q", bounds)
        self._all_opens, self._all_closes = array("d", opens), array("d", closes)
        self._joins: Times = np.asarray(opens, np.float64)[bounds[:-1]]
        repeats = period < math.inf
        self._leaves: Times = np.where(repeats, math.inf, np.asarray(closes)[bounds[1:] - 1])
        # How long each is online, in all.
        self._online = array("d", np.add.reduceat(np.subtract(closes, opens), bounds[:-1]))

    def joins(self) -> Times:
        """Return when the first window of each client opens."""
        return self._joins

    def leaves(self) -> Times:
        """Return when the last window of each client closes; inf if windows repeat."""
        return self._leaves

    def end(self, client: int, now: float, needed: float) -> float:
        """Return when a task that pauses between windows is done.

        Parameters
        ----------
        client : int
            The client, online at `now`.
        now : float
            When it begins the task.
        needed : float
            How long it works on it.

        Returns
        -------
        float
            inf if the windows do not suffice, or not within a thousand million periods.
        """
        _, closes = self.at(client, now)
        number, opens, online = self._numbers[client], now, self._online[client]
        while needed > closes - opens:
            needed -= closes - opens
            if needed > online * _MOST_PERIODS:
                return math.inf
            if needed > online and self._period < math.inf:
                # The last period may be needed to its end, but not one beyond it.
                periods = math.ceil(needed / online) - 1
                needed = max(0.0, needed - periods * online)
                number += periods * (self._first[client + 1] - self._first[client])
            number += 1
            opens, closes = self._window(client, number)
            if opens == math.inf:
                return math.inf
        return opens + needed

    def _find(self, client: int, now: float) -> None:
        number, closes = self._numbers[client] + 1, self._closes[client]
        if now >= self._since[client]:
            window = self._window(client, number)
            if window[1] > now:
                self._take(client, number, closes, *window)
                return
        first, last = self._first[client], self._first[client + 1]
        period, time = divmod(now, self._period)
        place = bisect_right(self._all_closes, time, first, last)
        number = int(period) * (last - first) + place - first
        # All of this rounds, and what follows does not.
        while number and self._window(client, number - 1)[1] > now:
            number -= 1
        while (window := self._window(client, number))[1] <= now:
            number += 1
        since = self._window(client, number - 1)[1] if number else -math.inf
        self._take(client, number, since, *window)

    def _window(self, client: int, number: int) -> tuple[float, float]:
        first = self._first[client]
        period, place = divmod(number, self._first[client + 1] - first)
        if not period:
            return self._all_opens[first + place], self._all_closes[first + place]
        shift = period * self._period
        return self._all_opens[first + place] + shift, self._all_closes[first + place] + shift


def windows_of_duty(duty: Sequence[float], phase: Times, period: float) -> Windows:
    """Return the windows of an on-off cycle.

    Parameters
    ----------
    duty : sequence of float
        Share of each period in which a client is online.
    phase : ndarray of float64, shape (n,)
        How far each is in its cycle at time 0, in seconds; it begins with the time online.
    period : float
        Length of a cycle in seconds.
    """
    begins = (period - phase) % period
    ends = begins + np.multiply(duty, period)
    # What is beyond the period is at its beginning.
    wraps = ends > period
    clients = np.concatenate([np.flatnonzero(wraps), np.arange(len(begins))])
    opens = np.concatenate([np.zeros(np.count_nonzero(wraps)), begins])
    closes = np.concatenate([ends[wraps] - period, np.minimum(ends, period)])
    order = np.argsort(clients, kind="stable")
    return Windows(1 + wraps, opens[order], closes[order], period)
