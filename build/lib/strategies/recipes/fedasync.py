"""FedAsync: merge every client model as it arrives.

Xie et al., *Asynchronous Federated Optimization* (1903.03934), algorithm 1 and section 5:

    w <- (1 - a s(tau)) w + a s(tau) w_i,        w_i = base model + delta,

with s constant, polynomial (1 + tau) ** -exponent, or hinge. The engine keeps the models of the
last ``max_staleness`` versions to know w_i from the delta. Every release depends on one update
only, so the recipe is refused under a release rule.

Memory beside the model: (max_staleness + 2) P floats, one more P with the published mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from strategies.errors import BadOption
from strategies.freshness import Constant, Freshness, Hinge, Polynomial
from strategies.mixing import ModelMixing
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Sliding

Staleness = Literal["constant", "polynomial", "hinge"]


@dataclass(frozen=True)
class FedAsync:
    """FedAsync with one of the paper's staleness functions.

    Parameters
    ----------
    mixing : float
        Mixing weight a of a fresh model, in (0, 1]; 0.6 in the paper.
    staleness : {"polynomial", "constant", "hinge"}
        Staleness function.
    staleness_exponent : float
        Exponent of the polynomial.
    hinge_slope : float
        Slope of the hinge.
    hinge_delay : float
        Staleness in versions that costs nothing under the hinge.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "fedasync"
    disjoint: ClassVar[bool] = False

    mixing: float = 0.6
    staleness: Staleness = "polynomial"
    staleness_exponent: float = 0.5
    hinge_slope: float = 10.0
    hinge_delay: float = 4.0
    published_rounds: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.mixing <= 1:
            raise BadOption("The mixing weight must lie in (0, 1].")
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Sliding(1),
            freshness=self._freshness(),
            normalise="count",
            upload=ModelMixing(),
            server=ServerSgd(self.mixing),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)

    def _freshness(self) -> Freshness:
        choices: dict[str, Freshness] = {
            "constant": Constant(),
            "polynomial": Polynomial(self.staleness_exponent),
            "hinge": Hinge(self.hinge_slope, self.hinge_delay),
        }
        if self.staleness not in choices:
            raise BadOption(f"staleness must be one of {', '.join(choices)}.")
        return choices[self.staleness]
