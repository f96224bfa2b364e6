"""ACE: the mean of everyone's latest update, at every upload.

Chang et al., *Mitigating Participation Imbalance Bias in Asynchronous Federated Learning*
(2511.19066), algorithm ACE (all-client engagement): with h_i the latest delta of client i,

    h_i <- d_i;    w <- w + lr * mean_j h_j.

Our reading: the paper first collects one update of every client; here the mean goes over the
clients heard of so far, so that the run starts with the first upload. Successive models differ
by one client's innovation, so the recipe is refused under a release rule.

Memory beside the model: (clients + 3) P floats, one more P with the published mean; less
per client with another ``cache``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.cached_rows import CacheKind
from strategies.drift import CachedDeltas
from strategies.engagement import LatestDeltas
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Sliding


@dataclass(frozen=True)
class ACE:
    """ACE.

    Parameters
    ----------
    server_lr : float
        Server learning rate. Every upload moves the model: 0.1 makes ten uploads together move
        it about as far as a buffer of ten does.
    max_age : float
        Uploads per client after which a silent client is forgotten.
    max_clients : int, optional
        Bound on the number of cached updates; the longest silent leave.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.
    cache : {"float32", "bfloat16", "sketch", "disk"}
        How the latest deltas are kept: exact; in half or a seventh of the memory, rounded;
        or on disk.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "ace"
    disjoint: ClassVar[bool] = False

    server_lr: float = 0.1
    max_age: float = 100.0
    max_clients: int | None = None
    published_rounds: float = 0.0
    cache: CacheKind = "float32"

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Sliding(1),
            drift=CachedDeltas(self.max_age, self.max_clients, kind=self.cache),
            upload=LatestDeltas(),
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
