"""Puts a policy, what is known of the clients, and randomness together."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

import numpy as np

from strategies.errors import BadOption
from strategies.selection.history import Column, TaskHistory
from strategies.selection.policies import Policy


class Selector:
    """Chooses clients and learns from their tasks. One choice takes time linear in the candidates.

    Parameters
    ----------
    policy : Policy
        Whom to prefer.
    rng : random.Random
        The only source of randomness.
    history : TaskHistory, optional
        What is known already.
    """

    def __init__(
        self, policy: Policy, rng: random.Random, history: TaskHistory | None = None
    ) -> None:
        self._policy, self._rng = policy, rng
        self._history = history or TaskHistory()

    def choose(self, candidates: Iterable[int], now: float) -> int:
        """Choose one of the idle clients; its task begins at the time `now`, in seconds.

        The order in which candidates are listed makes no difference.

        Raises
        ------
        BadOption
            If the policy's weights are no probabilities.
        """
        clients = sorted(candidates)
        weights = self._policy.weights(self._history.estimates(clients, now))
        client = clients[_draw(weights, self._rng.random())]
        self._history.begin(client, now)
        return client

    def ended(
        self, client: int, now: float, *, delivered: bool, utilisation: float | None = None
    ) -> None:
        """Note the end of a task; see `TaskHistory.end`."""
        self._history.end(client, now, delivered=delivered, utilisation=utilisation)

    def state(self) -> dict[str, Any]:
        """Return JSON data that `restore` reads."""
        return {"history": self._history.state(), "random": self._rng.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._history.restore(state["history"])
        version, internal, gauss = state["random"]
        self._rng.setstate((version, tuple(internal), gauss))


def _draw(weights: Column, uniform: float) -> int:
    """Return a place with probability proportional to its weight, from a draw in [0, 1)."""
    ends = np.cumsum(weights)
    total = float(ends[-1])
    if not (0 < total < math.inf) or weights.min() < 0:
        raise BadOption("A selection policy must give finite weights of at least 0, not all 0.")
    place = np.searchsorted(ends, uniform * total, side="right")
    # The product may round up to the total, which belongs to the last weight above 0.
    return int(min(place, np.searchsorted(ends, total)))
