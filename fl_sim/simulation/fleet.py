"""Simulated devices: speed, network, availability, failures.

Everything a task draws at random is a pure function of (seed, client, task number), so results
do not depend on the order of asking. Draws are looked up in a table instead of a generator per
task: a scheduler of half a million events per second can afford nothing dearer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fl_sim.simulation.config import DevicesSection
from fl_sim.simulation.trace import read_trace

# Every client walks through one table of draws from a place of its own; the stride is odd, so it
# comes back to where it began only after the whole table.
_TABLE = 1 << 14
_STRIDE = 0x1E35
_SPREAD = 0x9E3779B1
# Below this many tasks a loop is faster than numpy.
_BY_NUMPY = 8

Times: TypeAlias = npt.NDArray[np.float64]
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
        factors = np.exp(self.jitter * rng.normal(size=_TABLE))
        breaks = np.where(rng.random(_TABLE) < self.dropout, rng.random(_TABLE), 2.0)
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
        chosen = np.asarray(clients, np.int64)
        draws = (chosen * _SPREAD + np.asarray(numbers, np.int64) * _STRIDE) % _TABLE
        compute, transfer, *device = self._devices[chosen].T
        columns = (compute * self._factors[draws], transfer, self._breaks[draws], *device)
        return list(zip(clients, *(column.tolist() for column in columns), strict=True))

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

    def ready(self, clients: Sequence[int], now: float) -> npt.NDArray[np.float64]:
        """Return when, from `now` on, each of the clients can begin a task; inf for never."""
        _, _, dies_at, window, phase = self._devices[np.asarray(clients, np.int64)].T
        elapsed = (now + phase) % self.period
        offline = (window < self.period) & (elapsed >= window)
        ready = np.where(offline, now + self.period - elapsed, now)
        return np.where(ready < dies_at, ready, math.inf)

    def _task(self, client: int, number: int) -> TaskDraw:
        draw = (client * _SPREAD + number * _STRIDE) % _TABLE
        compute, transfer, *device = self._devices[client].tolist()
        factor, broken = self._factors[draw].item(), self._breaks[draw].item()
        return (client, compute * factor, transfer, broken, *device)


def slowest_last(fleet: Fleet, scores: Sequence[float]) -> Fleet:
    """Give the slowest devices to the clients of the highest scores.

    Parameters
    ----------
    fleet : Fleet
        The devices; compute, transfer and duty of a device stay together.
    scores : sequence of float
        One score per client.

    Returns
    -------
    Fleet
    """
    by_speed = np.argsort(np.add(fleet.compute, fleet.transfer), kind="stable")
    device_of = np.empty(len(fleet), np.int64)
    device_of[np.argsort(np.asarray(scores), kind="stable")] = by_speed
    return replace(
        fleet,
        compute=tuple(fleet.compute[d] for d in device_of),
        transfer=tuple(fleet.transfer[d] for d in device_of),
        duty=None if fleet.duty is None else tuple(fleet.duty[d] for d in device_of),
    )


def speeds(law: str, num_clients: int, spread: float, seed: int) -> npt.NDArray[np.float64]:
    """Draw median training times with a median of one.

    Parameters
    ----------
    law : {"lognormal", "pareto", "uniform"}
        Lognormal; Pareto (Zipf-like, heavy tail of slow devices); uniform.
    num_clients : int
        Number of draws.
    spread : float
        Standard deviation of the logarithm; for Pareto the inverse of the tail exponent; for
        uniform the half-width relative to the median, below 1.
    seed : int
        Seed.

    Returns
    -------
    ndarray of float64, shape (num_clients,)
    """
    rng = np.random.default_rng((seed, num_clients))
    if law == "lognormal":
        return np.exp(spread * rng.normal(size=num_clients))
    uniform = rng.random(num_clients)
    if law == "pareto":
        return (2.0 * (1.0 - uniform)) ** -spread
    return 1.0 + spread * (2.0 * uniform - 1.0)


def deaths(num_clients: int, rate: float, horizon: float, seed: int) -> tuple[float, ...] | None:
    """Let the share `rate` of the clients die at uniformly drawn times before `horizon`."""
    if not rate:
        return None
    rng = np.random.default_rng((seed, 6))
    times = np.full(num_clients, math.inf)
    dying = rng.permutation(num_clients)[: round(rate * num_clients)]
    times[dying] = rng.random(len(dying)) * horizon
    return tuple(times.tolist())


def fleet_from(
    config: DevicesSection,
    *,
    model_bytes: int,
    virtual_time: float,
    seed: int,
    scores: Sequence[float] | None = None,
) -> Fleet:
    """Build the devices of a configuration.

    Parameters
    ----------
    config : DevicesSection
        The section ``[devices]``.
    model_bytes : int
        Size of one download, and of one upload.
    virtual_time : float
        Length of the run in median task durations; deaths are spread over it.
    seed : int
        Seed of speeds, bandwidths, jitter, failures and deaths.
    scores : sequence of float, optional
        One score per client: the higher, the slower its device.

    Raises
    ------
    ConfigInvalid
        If the trace does not fit.
    """
    count = config.clients
    if config.trace is not None:
        trace = read_trace(config.trace, count)
        compute, network, duty = trace.compute, trace.network, trace.duty_cycle
    else:
        draws = config.task_seconds * speeds(config.speed, count, config.sigma, seed)
        compute, network, duty = tuple(draws.tolist()), None, None
    if network is None and config.bandwidth_mbps is not None:
        noise = np.random.default_rng((seed, 7)).normal(size=count)
        rates = config.bandwidth_mbps * np.exp(config.bandwidth_sigma * noise)
        network = tuple(rates.tolist())
    if duty is None and config.duty_cycle is not None:
        duty = (config.duty_cycle,) * count
    transfer = tuple(16.0e-6 * model_bytes / rate for rate in network or ())
    fleet = Fleet(
        compute,
        transfer or (0.0,) * count,
        duty,
        jitter=config.jitter,
        dropout=config.dropout,
        seed=seed,
    )
    if scores is not None:
        fleet = slowest_last(fleet, scores)
    unit = fleet.median_task
    dies_at = deaths(count, config.death_rate, virtual_time * unit, seed)
    return replace(fleet, period=config.period * unit, dies_at=dies_at)
