"""AsyncFedED: staleness measured by the distance the model has moved.

Wang et al., *AsyncFedED: Asynchronous Federated Learning with Euclidean Distance based Adaptive
Weight Aggregation* (2205.13797): with gamma = |w - w_base| / |d| in Euclidean norms,

    w <- w + lr / (gamma + offset) * d.

The paper also adapts each client's number of local epochs to its gamma; that half belongs to the
client and is not part of this rule. Every upload makes a version, so the recipe is refused under
a release rule.

Memory beside the model: (max_staleness + 2) P floats, for the base models within max_staleness
are kept, and one more P with the published mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.distance import DistanceWeight
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Sliding


@dataclass(frozen=True)
class AsyncFedED:
    """AsyncFedED.

    Parameters
    ----------
    server_lr : float
        The paper's lambda; an update that is not stale moves the model by lr / offset times
        its delta.
    offset : float
        The paper's epsilon.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "asyncfeded"
    disjoint: ClassVar[bool] = False

    server_lr: float = 0.1
    offset: float = 1.0
    published_rounds: float = 0.0

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Sliding(1),
            upload=DistanceWeight(self.offset),
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
