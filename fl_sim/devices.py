"""How devices behave: what a grid asks of them, and the simplest kind.

`Devices` differ in speed only and are always there; `fl_sim.simulation.fleet.Fleet` also knows
networks, availability, failures and deaths.

Device speeds are lognormal over clients, as measured in large deployments (FedScale,
2105.11367, figure 3: completion times spread over two orders of magnitude), with a smaller
lognormal jitter per task. The jitter of a task is a pure function of (seed, client, kind of task,
task number), so simulated times do not depend on the order in which they are asked for, nor those
of training on how many evaluations come between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fl_sim.failures import Fate

EVALUATE_SHARE = 0.25
"""Time an evaluation takes on a device, relative to a training task."""
# Keeps the jitter of evaluations apart from that of training tasks.
_EVALUATIONS = 2


class Course(NamedTuple):
    """What becomes of a task.

    Attributes
    ----------
    end : float
        When it ends, well or not, in seconds.
    fate : Fate
        How it ends.
    """

    end: float
    fate: Fate


class DeviceModel(Protocol):
    """Device behaviour as a grid sees it; times are virtual seconds."""

    def __len__(self) -> int:
        """Number of clients."""
        ...

    def ready(self, clients: Sequence[int], now: float) -> npt.NDArray[np.float64]:
        """Return when, from `now` on, each of the clients can begin a task; inf for never."""
        ...

    def course(self, client: int, number: int, start: float, *, evaluate: bool = False) -> Course:
        """Return what becomes of a task that a client begins at `start`, or as soon as it can.

        `number` counts the tasks of its kind that the client was given before.
        """
        ...


@dataclass(frozen=True)
class Devices:
    """Task durations of a fleet.

    Attributes
    ----------
    seconds : tuple of float
        Median duration of a training task of each client, in seconds.
    jitter : float (default: 0.2)
        Standard deviation of the logarithm of a task's duration around its client's median.
    seed : int (default: 0)
        Seed of the jitter.
    """

    seconds: tuple[float, ...]
    jitter: float = 0.2
    seed: int = 0

    def __len__(self) -> int:
        return len(self.seconds)

    def duration(self, client: int, task: int, *, evaluate: bool = False) -> float:
        """Return the duration in seconds of a client's task number `task` of its kind."""
        stream, share = ((_EVALUATIONS,), EVALUATE_SHARE) if evaluate else ((), 1.0)
        noise = np.random.default_rng((self.seed, client, task, *stream)).normal()
        return self.seconds[client] * share * math.exp(self.jitter * noise)

    def ready(self, clients: Sequence[int], now: float) -> npt.NDArray[np.float64]:
        """Return `now` for each of the clients."""
        return np.full(len(clients), now)

    def course(self, client: int, number: int, start: float, *, evaluate: bool = False) -> Course:
        """Return when a task begun at `start` completes."""
        end = start + self.duration(client, number, evaluate=evaluate)
        return Course(end, Fate.COMPLETES)


def lognormal_devices(
    num_clients: int,
    *,
    median: float = 1.0,
    sigma: float = 1.2,
    jitter: float = 0.2,
    seed: int = 0,
    slowness: Sequence[float] | None = None,
) -> Devices:
    """Draw a fleet with lognormal speeds.

    Parameters
    ----------
    num_clients : int
        Number of devices.
    median : float (default: 1.0)
        Median duration of a training task, in seconds.
    sigma : float (default: 1.2)
        Standard deviation of the logarithm of the clients' median durations.
    jitter : float (default: 0.2)
        Standard deviation of the logarithm of each task's duration.
    seed : int (default: 0)
        Seed of speeds and jitter.
    slowness : sequence of float, optional
        One score per client: the higher the score, the slower the device drawn for it. Use
        `FederatedData.rare_shares` to put the rare classes on the slowest devices. If unset,
        speeds are unrelated to the data.

    Raises
    ------
    ValueError
        If `slowness` does not have one score per client.
    """
    draws = median * np.exp(
        sigma * np.random.default_rng((seed, num_clients)).normal(size=num_clients)
    )
    if slowness is not None:
        if len(slowness) != num_clients:
            raise ValueError(f"slowness has {len(slowness)} scores for {num_clients} clients")
        by_score = np.argsort(np.asarray(slowness), kind="stable")
        seconds = np.empty(num_clients)
        seconds[by_score] = np.sort(draws)
        draws = seconds
    return Devices(seconds=tuple(float(s) for s in draws), jitter=jitter, seed=seed)
