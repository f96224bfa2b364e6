"""FedBuff: buffered asynchronous aggregation.

Nguyen et al., *Federated Learning with Buffered Asynchronous Aggregation* (2106.06639),
algorithm 1 and section 5: when K updates are buffered,

    w <- w + lr * (1 / K) * sum_i s(tau_i) d_i,        s(tau) = (1 + tau) ** -0.5.

Implementations disagree on the divisor. ``normalise="count"`` is the paper's 1 / K: discounted
updates also make the step shorter. ``normalise="sum"`` divides by the sum of the weights, so the
discount only shifts weight between the updates of a buffer.

Memory beside the model: (K + 1) P floats, one more P with momentum, one with the published mean and
one with a trusted direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.freshness import Polynomial
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.robust.robustness import RobustFilter, robustness_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Buffer, Normalise


@dataclass(frozen=True)
class FedBuff:
    """FedBuff with disjoint buffers of K updates.

    Parameters
    ----------
    buffer_size : int
        K; 10 in the paper.
    server_lr : float
        Server learning rate.
    server_momentum : float
        Server momentum.
    staleness_exponent : float
        Exponent of (1 + tau) ** -exponent; 0 switches the discount off.
    normalise : {"count", "sum"}
        Divide by K as in the paper, or by the sum of the weights.
    max_wait : float, optional
        Seconds after which a buffer that is not full is merged.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.
    robust, clip_norm, attackers, trusted_client
        Filter for hostile updates, see :class:`~strategies.robust.robustness.Robustness`; none
        by default.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "fedbuff"
    disjoint: ClassVar[bool] = True

    buffer_size: int = 10
    server_lr: float = 1.0
    server_momentum: float = 0.0
    staleness_exponent: float = 0.5
    normalise: Normalise = "count"
    max_wait: float | None = None
    published_rounds: float = 0.0
    robust: RobustFilter | None = None
    clip_norm: float | None = None
    attackers: float = 0.2
    trusted_client: str | None = None

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Buffer(self.buffer_size, self.max_wait),
            freshness=Polynomial(self.staleness_exponent),
            normalise=self.normalise,
            robust=robustness_of(self),
            server=ServerSgd(self.server_lr, self.server_momentum),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
