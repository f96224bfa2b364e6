"""FADAS: adaptive server steps on buffered updates, shorter when an update is late.

Wang et al., *FADAS: Towards Federated Adaptive Asynchronous Optimization* (ICML 2024,
2407.18365), algorithm 1: with D the mean of a buffer of K deltas,

    m <- b1 m + (1 - b1) D;   v <- b2 v + (1 - b2) D * D;   u <- max(u, v)
    w <- w + lr_t * m / (sqrt(u) + epsilon)
    lr_t = lr if tau_max <= tau_c else min(lr, 1 / tau_max)

with tau_max the largest staleness in the buffer. Taken literally, the minimum does nothing while lr
is below 1 / max_staleness; the authors' code (yujiaw98/FADAS) takes lr / tau_max instead, with
tau_c = 1, and corrects the moments' bias, which the algorithm does not. ``delay_rule`` offers both
rates. The step depends on a buffer through its mean only, so the recipe is as safe under a release
rule as FedBuff is.

Memory beside the model: (K + 4) P floats, one more P with the published mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import DelayRule, ServerAmsGrad
from strategies.window import Buffer


@dataclass(frozen=True)
class FADAS:
    """FADAS with disjoint buffers of K updates.

    Parameters
    ----------
    buffer_size : int
        K, the updates per version.
    server_lr : float
        Server learning rate, about the size of a step in each coordinate; the paper tunes it
        by task, the default is ours.
    beta1, beta2 : float
        Decay of the moments; 0.9 and 0.99 in the paper.
    epsilon : float
        Keeps the division finite.
    delay_threshold : int, optional
        tau_c; None switches delay adaptation off. The default is ours.
    max_wait : float, optional
        Seconds after which a buffer that is not full is merged.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.
    delay_rule : {"minimum", "division"}
        The rate of a late buffer: min(lr, 1 / tau_max) as in the paper, or lr / tau_max.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "fadas"
    disjoint: ClassVar[bool] = True

    buffer_size: int = 10
    server_lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    delay_threshold: int | None = 10
    max_wait: float | None = None
    published_rounds: float = 0.0
    delay_rule: DelayRule = "minimum"

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Buffer(self.buffer_size, self.max_wait),
            normalise="count",
            server=ServerAmsGrad(
                self.server_lr,
                self.beta1,
                self.beta2,
                self.epsilon,
                self.delay_threshold,
                self.delay_rule,
            ),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
