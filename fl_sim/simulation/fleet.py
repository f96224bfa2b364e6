"""Simulated devices: speed, network, availability, failures.

Everything a task draws at random is a pure function of (seed, client, task number), so results
do not depend on the order of asking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fl_sim.devices import EVALUATE_SHARE, Course
from fl_sim.failures import Fate
from fl_sim.simulation.draws import TABLE, place_of

# Below this many tasks a loop is faster than numpy.
_BY_NUMPY = 8

Times: TypeAlias = npt.NDArray[np.float64]
Clients: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
TaskDraw: TypeAlias = tuple[int, float, float, float, float, float, float]
"""Client; training and transfer time; where the task breaks off, as a share of it, 2 for nowhere;
when the client dies; how long it is online in each period; the phase of its periods."""


@dataclass(frozen=True)
class Fleet:
    """Device behaviour of every client; times are virtual seconds.

    Attributes
    ----------
    compute : tuple of float
        Median training time of each client.
    transfer : tuple of float
        Time of one download and one upload of each client.
    duty : tuple of float, optional
        Share of each period in which the client is online; always if unset. A task pauses while
        its client is offline.
    period : float (default: 1.0)
        Length of an on-off cycle. Cycles of different clients are shifted against each other.
    dies_at : tuple of float, optional
        When the client leaves for good, losing its task.
    jitter : float (default: 0.2)
        Standard deviation of the logarithm of a task's training time.
    dropout : float (default: 0.0)
        Probability that a task breaks off on the way.
    seed : int (default: 0)
        Seed of jitter, drop-outs and phases.
    """

    compute: tuple[float, ...]
    transfer: tuple[float, ...]
    duty: tuple[float, ...] | None = None
    period: float = 1.0
    dies_at: tuple[float, ...] | None = None
    jitter: float = 0.2
    dropout: float = 0.0
    seed: int = 0
    _factors: Times = field(init=False, repr=False, compare=False)
    _breaks: Times = field(init=False, repr=False, compare=False)
    _devices: Times = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng((self.seed, 5))
        factors = np.exp(self.jitter * rng.normal(size=TABLE))
        breaks = np.where(rng.random(TABLE) < self.dropout, rng.random(TABLE), 2.0)
        object.__setattr__(self, "_factors", factors)
        object.__setattr__(self, "_breaks", breaks)
        count = len(self.compute)
        columns = (
            self.compute,
            self.transfer,
            np.full(count, math.inf) if self.dies_at is None else self.dies_at,
            np.full(count, self.period)
            if self.duty is None
            else np.multiply(self.duty, self.period),
            rng.random(count) * self.period,
        )
        # One row per client, its numbers side by side in memory: a lookup that misses the
        # cache once instead of once per property.
        object.__setattr__(self, "_devices", np.column_stack(columns).astype(np.float64))

    def __len__(self) -> int:
        return len(self.compute)

    @property
    def median_task(self) -> float:
        """Median over clients of the time of a task: the unit of reported times."""
        return float(np.median(self._devices[:, 0] + self._devices[:, 1]))

    def lifetime(self, until: float) -> float:
        """Return the time until `until`, or death if sooner, summed over the clients."""
        return float(np.minimum(self._devices[:, 2], until).sum())

    def tasks(self, clients: Sequence[int], numbers: Sequence[int]) -> list[TaskDraw]:
        """Draw all that is random about tasks.

        Parameters
        ----------
        clients : sequence of int
            The clients.
        numbers : sequence of int
            How many tasks each began before.
        """
        if len(clients) < _BY_NUMPY:
            return [self._task(*task) for task in zip(clients, numbers, strict=True)]
        columns = self.draw(np.asarray(clients, np.int64), np.asarray(numbers, np.int64))
        return list(zip(clients, *(column.tolist() for column in columns), strict=True))

    def draw(self, clients: Clients, numbers: Clients) -> Times:
        """Draw what `tasks` does, as one array.

        Parameters
        ----------
        clients : ndarray of int64, shape (n,)
            The clients.
        numbers : ndarray of int64, shape (n,)
            How many tasks each began before.

        Returns
        -------
        ndarray of float64, shape (6, n)
            The fields of `TaskDraw` after the client.
        """
        draws = place_of(clients, numbers)
        columns = np.empty((6, len(clients)))
        columns[[0, 1, 3, 4, 5]] = self._devices[clients].T
        columns[0] *= self._factors[draws]
        columns[2] = self._breaks[draws]
        return columns

    def absent(self, draws: Times, now: Times) -> tuple[Flags, Flags]:
        """Tell who cannot begin, because it is offline or because it is dead.

        Parameters
        ----------
        draws : ndarray of float64, shape (6, n)
            What `draw` returned for the tasks.
        now : ndarray of float64, shape (n,)
            When each is to begin.

        Returns
        -------
        offline, dead : ndarray of bool, shape (n,)
            The dead are not offline.
        """
        _, _, _, dies_at, window, phase = draws
        dead = now >= dies_at
        if self.duty is None:
            return np.zeros(len(now), bool), dead
        offline = (window < self.period) & (window - (now + phase) % self.period <= 0.0)
        return offline & ~dead, dead

    def begin_many(self, draws: Times, now: Times) -> tuple[Times, Flags]:
        """Return when each task ends and if it delivers: `begin` of full tasks nobody misses.

        Parameters
        ----------
        draws : ndarray of float64, shape (6, n)
            What `draw` returned for the tasks.
        now : ndarray of float64, shape (n,)
            When each begins.

        Returns
        -------
        ends : ndarray of float64, shape (n,)
            When it ends.
        delivers : ndarray of bool, shape (n,)
            False if it breaks off or the client dies first.
        """
        compute, transfer, broken, dies_at, window, phase = draws
        needed = compute + transfer
        breaks = broken < 1.0
        needed[breaks] *= broken[breaks]
        if self.duty is not None:
            left = window - (now + phase) % self.period
            pauses = np.flatnonzero((window < self.period) & (needed > left))
            left, window = left[pauses], window[pauses]
            full, rest = np.divmod(needed[pauses] - left, window)
            needed[pauses] = left + (full + 1) * (self.period - window) + full * window + rest
        ends = now + needed
        return np.minimum(ends, dies_at), ~breaks & (ends <= dies_at)

    def begin(self, task: TaskDraw, now: float, work: float = 1.0) -> tuple[float, bool] | None:
        """Return when a task begun at `now` ends and if it delivers.

        Parameters
        ----------
        task : TaskDraw
            One of `tasks`.
        now : float
            When the task begins.
        work : float (default: 1.0)
            Share of a full task; scales the training, not the transfer.

        Returns
        -------
        tuple of (float, bool), or None
            None if the client is offline at that time; an end of inf if it is dead.
        """
        _, compute, transfer, broken, dies_at, window, phase = task
        needed = compute * work + transfer
        if broken < 1.0:
            needed *= broken
        if now >= dies_at:
            return math.inf, False
        if window < self.period:
            left = window - (now + phase) % self.period
            if left <= 0.0:
                return None
            if needed > left:
                full, rest = divmod(needed - left, window)
                needed = left + (full + 1) * (self.period - window) + full * window + rest
        due = now + needed
        return (due, broken > 1.0) if due <= dies_at else (dies_at, False)

    def course(self, client: int, number: int, start: float, *, evaluate: bool = False) -> Course:
        """Return what becomes of a task that a grid hands out; see `DeviceModel`.

        A client's training task is the one that `tasks` draws for this number. An evaluation
        takes a share of the time to train, and the download.
        """
        # Evaluations count backwards, away from the draws of training tasks.
        task = self._task(client, -1 - number if evaluate else number)
        if evaluate:
            _, compute, transfer, broken, dies_at, window, phase = task
            compute, transfer = EVALUATE_SHARE * compute, transfer / 2
            task = (client, compute, transfer, broken, dies_at, window, phase)
        while (begun := self.begin(task, start)) is None:
            start = self.ready([client], start).item()
        end, delivers = begun
        if delivers:
            return Course(end, Fate.COMPLETES)
        leaves = self._leaves_at(client, start)
        return Course(end, Fate.DROPS_OUT) if end < leaves else Course(leaves, Fate.LEAVES)

    def ready(self, clients: Sequence[int] | Clients, now: float) -> Times:
        """Return when, from `now` on, each of the clients can begin a task; inf for never."""
        _, _, dies_at, window, phase = self._devices[np.asarray(clients, np.int64)].T
        elapsed = (now + phase) % self.period
        offline = (window < self.period) & (elapsed >= window)
        # A sum that rounds to `now` would be taken for online.
        later = np.maximum(now + self.period - elapsed, np.nextafter(now, math.inf))
        ready = np.where(offline, later, now)
        return np.where(ready < dies_at, ready, math.inf)

    def _leaves_at(self, client: int, now: float) -> float:
        """Return when a client that is there at `now` leaves, losing its task."""
        return self._devices.item(client, 2)

    def _task(self, client: int, number: int) -> TaskDraw:
        draw = place_of(client, number)
        compute, transfer, *device = self._devices[client].tolist()
        factor, broken = self._factors[draw].item(), self._breaks[draw].item()
        return (client, compute * factor, transfer, broken, *device)
