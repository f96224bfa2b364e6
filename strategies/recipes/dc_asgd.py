"""DC-ASGD: stale updates moved to where the model is now.

Zheng et al., *Asynchronous Stochastic Gradient Descent with Delay Compensation* (ICML 2017,
1609.08326), algorithm 2 (DC-ASGD): g + lambda * g * g * (w - w_base), element by element, stands in
for the gradient at w. A delta d of local steps stands for -g here, so the correction changes its
sign:

    w <- w + lr * (d - lambda * d * d * (w - w_base))

Adaptive form: lambda = lambda_0 / sqrt(s + 1e-7) with s <- decay * s + (1 - decay) * d * d. It does
not depend on the clients' learning rate; in the constant form lambda is the paper's divided by
it. Every upload makes a version, so the recipe is refused under a release rule.

Memory beside the model: (max_staleness + 2) P floats, for the base models within max_staleness
are kept, one more P for s in the adaptive form, and one with the published mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.compensation import DelayCompensation
from strategies.errors import BadOption
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Sliding


@dataclass(frozen=True)
class DCASGD:
    """Delay-compensated ASGD.

    Parameters
    ----------
    server_lr : float
        Server learning rate. Every upload moves the model: 0.1 makes ten uploads together move
        it about as far as a buffer of ten does.
    adaptive : bool
        Whether the strength adapts to the size of the deltas (DC-ASGD-a).
    strength : float
        lambda_0 in adaptive form (2 in the paper), lambda otherwise (0.04 in the paper, on
        gradients).
    decay : float
        Decay of the mean square; 0.95 in the paper.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "dc-asgd"
    disjoint: ClassVar[bool] = False

    server_lr: float = 0.1
    adaptive: bool = True
    strength: float = 2.0
    decay: float = 0.95
    published_rounds: float = 0.0

    def __post_init__(self) -> None:
        if type(self.adaptive) is not bool:
            raise BadOption("adaptive is true or false.")
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Sliding(1),
            upload=DelayCompensation(self.strength, self.decay if self.adaptive else None),
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
