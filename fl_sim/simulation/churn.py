"""Churn: clients that join, leave and come back, by a law."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fl_sim.simulation.draws import TABLE, place_of
from fl_sim.simulation.fleet import Clients, Times
from fl_sim.simulation.intervals import Intervals


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
        while closes <= now:
            number, since = number + 1, closes
            absence = self._lengths.item(place_of(client, 2 * number - 1))
            opens = closes + self._absence * absence
            session = self._lengths.item(place_of(client, 2 * number))
            closes = opens + self._session * session
        self._take(client, number, since, opens, closes)


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
