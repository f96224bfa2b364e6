"""Idle clients, drawn uniformly, one by one or by the hand."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from fl_sim.simulation.fleet import Clients


class IdleClients:
    """Clients without a task.

    Parameters
    ----------
    count : int
        Number of clients; all are idle.
    seed : int
        Seed of the draws.
    """

    def __init__(self, count: int, seed: int) -> None:
        # An array, not a list: at 100,000 clients a boxed number is a cache miss more.
        self._clients = array("q", np.arange(count, dtype=np.int64).tobytes())
        self._random = random.Random(seed).random
        self._generator = np.random.default_rng((seed, 8))

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: int) -> None:
        """Add a client."""
        self._clients.append(client)

    def extend(self, clients: Iterable[int]) -> None:
        """Add clients."""
        self._clients.extend(clients)

    def add_many(self, clients: Clients) -> None:
        """Add clients, in this order."""
        self._clients.frombytes(clients.tobytes())

    def all(self) -> list[int]:
        """Return all idle clients."""
        return self._clients.tolist()

    def remove(self, client: int) -> None:
        """Take this client."""
        self._clients.remove(client)

    def keep(self, clients: Clients) -> None:
        """Let these be all idle clients, in this order."""
        del self._clients[:]
        self.add_many(clients)

    def draw_from(self, places: Sequence[int]) -> int:
        """Take one of the clients at these places of `all()`."""
        return self._clients.pop(places[int(self._random() * len(places))])

    def draw(self, count: int) -> list[int]:
        """Take `count` of the idle clients, each with the same probability."""
        clients, drawn = self._clients, []
        for _ in range(min(count, len(clients))):
            place = int(self._random() * len(clients))
            drawn.append(clients[place])
            clients[place] = clients[-1]
            clients.pop()
        return drawn

    def draw_many(self, count: int) -> Clients:
        """Take `count` of the idle clients, or a few less, each with the same probability.

        Faster than `draw` from some 32 clients on; there must be one idle.
        """
        left = len(self._clients)
        places = self._generator.integers(0, left, count)
        # Whoever is drawn twice comes once: a repeat is as likely for everybody.
        places = places[np.sort(np.unique(places, return_index=True)[1])]
        left -= len(places)
        clients = np.frombuffer(self._clients, np.int64)
        drawn = clients[places]
        # The end of the array fills the holes that the drawn ones leave before it.
        stays = np.ones(len(places), bool)
        stays[places[places >= left] - left] = False
        clients[places[places < left]] = clients[left:][stays]
        del clients
        del self._clients[left:]
        return drawn
