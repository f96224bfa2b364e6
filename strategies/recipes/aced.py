"""ACED: ACE without the clients that have been silent for too long.

Chang et al., *Mitigating Participation Imbalance Bias in Asynchronous Federated Learning*
(2511.19066), the delay-aware variant: as ACE, but the mean goes over the active clients

    A(t) = {i : t - t_i <= max_delay}

only. The paper was at hand in its abstract and reviews only ("includes only clients with
sufficiently recent updates"). Our reading: t counts versions, one per upload, and t_i is the
version that client i's last upload made, from which its present task starts if it goes on at once.
Whoever is not active is forgotten, for its next upload replaces its cached update in any case.
Refused under a release rule as ACE is.

Memory beside the model: (active clients + 3) P floats, with at most max_delay + 1 active clients;
one more P with the published mean; less per client with another ``cache``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.cached_rows import CacheKind
from strategies.drift import CachedDeltas
from strategies.engagement import LatestDeltas
from strategies.errors import BadOption
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Sliding


@dataclass(frozen=True)
class ACED:
    """ACED.

    Parameters
    ----------
    server_lr : float
        Server learning rate. Every upload moves the model: 0.1 makes ten uploads together move
        it about as far as a buffer of ten does.
    max_delay : int
        Versions for which a client's latest update counts; the paper's tau_algo.
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

    name: ClassVar[str] = "aced"
    disjoint: ClassVar[bool] = False

    server_lr: float = 0.1
    max_delay: int = 100
    published_rounds: float = 0.0
    cache: CacheKind = "float32"

    def __post_init__(self) -> None:
        if type(self.max_delay) is not int or self.max_delay < 1:
            raise BadOption("max_delay must be an integer of at least 1.")
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Sliding(1),
            drift=CachedDeltas(self.max_delay, per_client=False, kind=self.cache),
            upload=LatestDeltas(),
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
