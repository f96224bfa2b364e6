"""Ringleader ASGD: a table of everyone's updates, one step per client and phase.

Maranjyan and Richtarik, *Ringleader ASGD: The First Asynchronous SGD with Optimal Time Complexity
under Data Heterogeneity* (2509.22860), algorithm 1. Phase 1 collects until every client has at
least one delta in the table. Phase 2 makes one step per client, at its next upload,

    w <- w + lr * mean_i (mean of client i's deltas in the table);

further uploads of clients that had their step fill the table of the next phase 1. The upload that
completes phase 1 makes its client's step. The authors' simulator keeps the same books: running
means by client, one table in use and one for early uploads, from which the next phase 1 starts.

Our reading: the clients are those heard of lately, so that the run starts with the first upload
and a dead client holds it up for ``max_age`` only; every upload makes a version, and one that only
fills the table leaves the model where it is. The table is used again at every step of a phase,
so the recipe is refused under a release rule.

Memory beside the model: at most (2 clients + 4) P floats, one more P with the published mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.phases import Phases
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Sliding


@dataclass(frozen=True)
class Ringleader:
    """Ringleader ASGD.

    Parameters
    ----------
    server_lr : float
        Server learning rate. Every upload moves the model: 0.1 makes ten uploads together move
        it about as far as a buffer of ten does.
    max_age : float
        Uploads per client after which a silent client is no longer waited for.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "ringleader"
    disjoint: ClassVar[bool] = False

    server_lr: float = 0.1
    max_age: float = 100.0
    published_rounds: float = 0.0

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Sliding(1),
            upload=Phases(),
            max_age=self.max_age,
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
