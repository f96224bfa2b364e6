"""Ringmaster ASGD: every fresh enough update at once, the others not at all.

Maranjyan, Tyurin and Richtarik, *Ringmaster ASGD: The First Asynchronous SGD with Optimal Time
Complexity* (ICML 2025, 2501.16168), algorithm 4 (without calculation stops):

    w <- w + lr * d    if tau < R,    d is dropped otherwise.

Here a dropped update is refused as too stale, so that its client learns of it and trains from the
newest model. The theory's R is max(1, ceil(sigma^2 / epsilon)), on homogeneous data. Every upload
makes a version, so the recipe is refused under a release rule.

Memory beside the model: 3 P floats, one more P with the published mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.errors import BadOption
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Sliding


@dataclass(frozen=True)
class Ringmaster:
    """Ringmaster ASGD.

    Parameters
    ----------
    max_delay : int
        R; an update of staleness R or more is refused.
    server_lr : float
        Server learning rate. Every upload moves the model: 0.1 makes ten uploads together move
        it about as far as a buffer of ten does.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "ringmaster"
    disjoint: ClassVar[bool] = False

    max_delay: int = 300
    server_lr: float = 0.1
    published_rounds: float = 0.0

    def __post_init__(self) -> None:
        if type(self.max_delay) is not int or self.max_delay < 1:
            raise BadOption("max_delay must be an integer of at least 1.")
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Sliding(1),
            server=ServerSgd(self.server_lr),
            max_staleness=self.max_delay - 1,
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
