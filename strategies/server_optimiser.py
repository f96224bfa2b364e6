"""How the server turns an aggregate into a step of the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.errors import BadOption
from strategies.update import Vector


@dataclass(frozen=True)
class ServerSgd:
    """x <- x + lr * m with m <- momentum * m + aggregate.

    Reddi et al., *Adaptive Federated Optimization* (2003.00295), algorithm 1 with SGD; momentum
    as in FedAvgM (Hsu et al., 1909.06335).

    Parameters
    ----------
    lr : float
        Server learning rate.
    momentum : float
        0 keeps no state.
    """

    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.lr <= 1e6:
            raise BadOption("The server learning rate must be positive, at most 1,000,000.")
        if not 0 <= self.momentum < 1:
            raise BadOption("The server momentum must lie in [0, 1).")

    def initial(self, num_params: int) -> Vector | None:
        """Return the momentum to start from, None without momentum."""
        return np.zeros(num_params, np.float32) if self.momentum else None

    def step(self, params: Vector, aggregate: Vector, momentum: Vector | None, out: Vector) -> None:
        """Write the next model into ``out``.

        All arrays cover the same columns. ``aggregate`` is used as scratch space and
        ``momentum`` is updated in place.
        """
        if momentum is not None:
            np.multiply(momentum, np.float32(self.momentum), out=momentum)
            np.add(momentum, aggregate, out=momentum)
            np.copyto(aggregate, momentum)
        np.multiply(aggregate, np.float32(self.lr), out=aggregate)
        np.add(params, aggregate, out=out)
