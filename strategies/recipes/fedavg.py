"""FedAvg: synchronous rounds, with over-selection.

McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*
(AISTATS 2017), algorithm 1; over-selection as in Bonawitz et al., *Towards Federated Learning at
Scale* (MLSys 2019), section 2.2: a round asks (1 + over_selection) m clients and closes with the
first m results,

    w <- w + lr * sum_i n_i d_i / sum_i n_i.

The barrier is a buffer of m that takes updates of the current version only: what arrives after
its round has closed is refused as too stale. ``Parts.cohort`` tells whoever hands out tasks to
hand out so many per version. A round that lost clients is closed by ``max_wait``, or waits for
the substitutes that the dispatcher sends for them.

Memory beside the model: (m + 1) P floats, one more P with momentum and one with the published mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from strategies.errors import BadOption
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.volume import Volume
from strategies.window import Buffer


@dataclass(frozen=True)
class FedAvg:
    """FedAvg with rounds of m results.

    Parameters
    ----------
    buffer_size : int
        m, the results that close a round.
    over_selection : float
        Share of clients asked beyond m; 0.3 in the paper on production federations.
    server_lr : float
        Server learning rate.
    server_momentum : float
        Server momentum (FedAvgM).
    volume_exponent : float
        Weight of a client with n examples is n to this power; 1 in the paper.
    max_wait : float, optional
        Seconds after its first result at which a round is closed though results are missing.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "fedavg"
    disjoint: ClassVar[bool] = True

    buffer_size: int = 10
    over_selection: float = 0.3
    server_lr: float = 1.0
    server_momentum: float = 0.0
    volume_exponent: float = 1.0
    max_wait: float | None = None
    published_rounds: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.over_selection <= 10:
            raise BadOption("over_selection must lie between 0 and 10.")
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Buffer(self.buffer_size, self.max_wait),
            volume=Volume(self.volume_exponent),
            server=ServerSgd(self.server_lr, self.server_momentum),
            max_staleness=0,
            cohort=self.buffer_size + ceil(round(self.buffer_size * self.over_selection, 9)),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
