"""How long a task takes on which device.

Device speeds are lognormal over clients, as measured in large deployments (FedScale,
2105.11367, figure 3: completion times spread over two orders of magnitude), with a smaller
lognormal jitter per task. The jitter of a task is a pure function of (seed, client, task
number), so simulated times do not depend on the order in which they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Devices:
    """Task durations of a fleet.

    Attributes
    ----------
    seconds : tuple of float
        Median duration of a training task of each client, in seconds.
    jitter : float (default: 0.2)
        Standard deviation of the logarithm of a task's duration around its client's median.
    evaluate_share : float (default: 0.25)
        Duration of an evaluation task relative to a training task.
    seed : int (default: 0)
        Seed of the jitter.
    """

    seconds: tuple[float, ...]
    jitter: float = 0.2
    evaluate_share: float = 0.25
    seed: int = 0

    def __len__(self) -> int:
        return len(self.seconds)

    def duration(self, client: int, task: int, *, evaluate: bool = False) -> float:
        """Return the duration in seconds of a client's task number `task`."""
        noise = np.random.default_rng((self.seed, client, task)).normal()
        share = self.evaluate_share if evaluate else 1.0
        return self.seconds[client] * share * math.exp(self.jitter * noise)


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
