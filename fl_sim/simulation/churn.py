"""Churn: clients that join, leave and come back, by a law."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fl_sim.simulation.draws import TABLE, place_of
from fl_sim.simulation.fleet import Clients, Times
from fl_sim.simulation.intervals import Intervals

# Sessions of a client until their lengths begin anew, and how many are taken one by one.
_CYCLE, _FAR = TABLE // 2, 64


class Sessions(Intervals):
    """Sessions of clients that join, leave and come back; leaving loses the task under way.

    Sessions and absences alternate, their lengths exponential and independent: an alternating
    renewal process per client.

    Parameters
    ----------
    joins : sequence of float
        When the first session of each client begins, in seconds; `stationary` draws it.
    session : float (default: infinity)
        Mean length of a session in seconds; clients that joined stay if infinite.
    absence : float (default: infinity)
        Mean time in seconds between sessions.
    seed : int (default: 0)
        Seed of the lengths.
    """

    def __init__(
        self,
        joins: Sequence[float] | Times,
        session: float = math.inf,
        absence: float = math.inf,
        seed: int = 0,
    ) -> None:
        super().__init__(len(joins))
        self._joins = np.asarray(joins, np.float64)
        self._session, self._absence = session, absence
        # The quantiles in random order: unlike those of a sample, their mean is that of the law.
        quantiles = (np.arange(TABLE) + 0.5) / TABLE
        rng = np.random.default_rng((seed, 9, 1))
        self._lengths = rng.permutation(-np.log1p(-quantiles))
        # Strides are odd, so the sessions of a client have every other length, and its absences
        # the others, until all have come and it begins anew: the time in between by the place
        # (even or odd) of its first session.
        even, odd = float(self._lengths[::2].sum()), float(self._lengths[1::2].sum())
        self._cycles = (session * even + absence * odd, session * odd + absence * even)

    def time_within(self, since: Times | float, until: Times) -> float:
        """Return the time of sessions from `since` until `until` of each client, in all."""
        total, number = 0.0, 0
        clients, opens = np.arange(len(self._joins)), self._joins
        since = np.broadcast_to(since, until.shape)
        while len(clients):
            closes = opens + self._length(clients, 2 * number, self._session)
            within = np.minimum(closes, until[clients]) - np.maximum(opens, since[clients])
            total += float(np.maximum(within, 0.0).sum())
            goes_on = closes < until[clients]
            clients, number = clients[goes_on], number + 1
            opens = closes[goes_on] + self._length(clients, 2 * number - 1, self._absence)
        return total

    def _length(self, clients: Clients, number: int, mean: float) -> Times:
        return mean * self._lengths[place_of(clients, np.full(len(clients), number))]

    def _find(self, client: int, now: float) -> None:
        number, since = self._numbers[client], self._since[client]
        opens, closes = self._opens[client], self._closes[client]
        if now < since:
            number, since, opens = 0, -math.inf, self._joins.item(client)
            closes = opens + self._session * self._lengths.item(place_of(client, 0))
        if now - closes > _FAR * (self._session + self._absence):
            number, since, opens, closes = self._far_ahead(client, now)
        while closes <= now:
            number, since = number + 1, closes
            absence = self._lengths.item(place_of(client, 2 * number - 1))
            opens = closes + self._absence * absence
            if not number % _CYCLE:
                # The same but for the rounding of sums, so it does not matter how one came here.
                opens = self._cycle_start(client, number // _CYCLE)
            session = self._lengths.item(place_of(client, 2 * number))
            closes = opens + self._session * session
        self._take(client, number, since, opens, closes)

    def _far_ahead(self, client: int, now: float) -> tuple[int, float, float, float]:
        """Return a session of the cycle that `now` is in, the last that closes before, or later."""
        cycle = int((now - self._joins.item(client)) // self._cycles[place_of(client, 0) % 2])
        while self._cycle_start(client, cycle) > now:
            cycle -= 1
        lengths = self._lengths[place_of(np.full(TABLE, client), np.arange(TABLE))]
        lengths[::2] *= self._session
        lengths[1::2] *= self._absence
        # One after the other, as the loop in `_find` adds them.
        times = np.cumsum([self._cycle_start(client, cycle), *lengths])
        within = max(0, int(np.searchsorted(times[1::2], now, side="right")) - 1)
        opens, closes = times[2 * within : 2 * within + 2].tolist()
        return cycle * _CYCLE + within, min(now, opens), opens, closes

    def _cycle_start(self, client: int, cycle: int) -> float:
        length: float = self._cycles[place_of(client, 0) % 2]
        return self._joins.item(client) + cycle * length


def stationary(num_clients: int, session: float, absence: float, seed: int) -> Times:
    """Draw when the first sessions begin, of a process that has gone on for ever at time 0.

    Parameters
    ----------
    num_clients : int
        Number of clients.
    session, absence : float
        Mean lengths in seconds.
    seed : int
        Seed.

    Returns
    -------
    ndarray of float64, shape (num_clients,)
        0 for the share session / (session + absence) of the clients, on average. What is left of
        an exponential session or absence has the law of a whole one.
    """
    rng = np.random.default_rng((seed, 9, 2))
    away = rng.random(num_clients) * (session + absence) >= session
    return np.where(away, rng.exponential(absence, num_clients), 0.0)


def late_joins(joins: Times, rate: float, horizon: float, seed: int) -> Times:
    """Let the share `rate` of the clients join at uniformly drawn times before `horizon`."""
    rng = np.random.default_rng((seed, 9, 3))
    late = rng.permutation(len(joins))[: round(rate * len(joins))]
    joins = joins.copy()
    joins[late] = rng.random(len(late)) * horizon
    return joins
