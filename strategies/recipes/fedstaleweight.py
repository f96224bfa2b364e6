"""FedStaleWeight: clients that are late on average count more.

Ma, Tu, Chen and Janapa Reddi, *FedStaleWeight: Buffered Asynchronous Federated Learning with Fair
Aggregation via Staleness Reweighting* (2406.02877): fast clients fill the buffers more often, in
proportion to the inverse of their staleness, so an update is weighed by the mean staleness of its
client, normalised over the buffer:

    w <- w + lr * sum_i a_i d_i / sum_i a_i,        a_i = 1 + mean staleness of client i.

Our reading: 1 + tau, the versions that a task spans, so that a client that is never late counts,
too; the mean is taken over all its updates, this one included. The authors' bench
(18jeffreyma/afl-bench) has the mean of about the last five without the 1: there a client that is
never late weighs nothing beside one that is, and a buffer of fresh updates moves nothing.

Memory beside the model: (K + 1) P floats, one more P with the published mean, and two integers per
client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.freshness import Growing
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Buffer


@dataclass(frozen=True)
class FedStaleWeight:
    """FedStaleWeight with disjoint buffers of K updates.

    Parameters
    ----------
    buffer_size : int
        K, the updates per version.
    server_lr : float
        Server learning rate.
    max_wait : float, optional
        Seconds after which a buffer that is not full is merged.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "fedstaleweight"
    disjoint: ClassVar[bool] = True

    buffer_size: int = 10
    server_lr: float = 1.0
    max_wait: float | None = None
    published_rounds: float = 0.0

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Buffer(self.buffer_size, self.max_wait),
            freshness=Growing(),
            average_staleness=True,
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
