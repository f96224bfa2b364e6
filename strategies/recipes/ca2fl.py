"""CA2FL: buffers of what is new, on top of everyone's last word.

Wang et al., *Tackling the Data Heterogeneity in Asynchronous Federated Learning with Cached
Update Calibration* (ICLR 2024), algorithm 1: with h_i the latest delta of client i,

    v = mean_j h_j + (1 / K) * sum_{i in buffer} (d_i - h_i);    w <- w + lr * v;    h_i <- d_i.

Our reading: the mean goes over the clients heard of lately, where the paper's goes over all
clients and counts those not yet heard of as zero.

Memory beside the model: (K + clients + 2) P floats, one more P with the published mean and one
under a release rule; less per client with another ``cache``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.cached_rows import CacheKind
from strategies.drift import CachedDeltas
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.robust.robustness import RobustFilter, robustness_of
from strategies.server_optimiser import ServerSgd
from strategies.window import Buffer


@dataclass(frozen=True)
class CA2FL:
    """CA2FL with disjoint buffers of K updates.

    Parameters
    ----------
    buffer_size : int
        K, the updates per version.
    server_lr : float
        Server learning rate.
    max_age : float
        Uploads per client after which a silent client is forgotten.
    max_clients : int, optional
        Bound on the number of cached updates; the longest silent leave.
    max_wait : float, optional
        Seconds after which a buffer that is not full is merged.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.
    cache : {"float32", "bfloat16", "sketch", "disk"}
        How the latest deltas are kept: exact; in half or a seventh of the memory, rounded;
        or on disk.
    robust, clip_norm, attackers, trusted_client
        Filter for hostile updates, see :class:`~strategies.robust.robustness.Robustness`; none
        by default.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "ca2fl"
    disjoint: ClassVar[bool] = True

    buffer_size: int = 10
    server_lr: float = 1.0
    max_age: float = 100.0
    max_clients: int | None = None
    max_wait: float | None = None
    published_rounds: float = 0.0
    cache: CacheKind = "float32"
    robust: RobustFilter | None = None
    clip_norm: float | None = None
    attackers: float = 0.2
    trusted_client: str | None = None

    def __post_init__(self) -> None:
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        return Parts(
            window=Buffer(self.buffer_size, self.max_wait),
            normalise="count",
            drift=CachedDeltas(self.max_age, self.max_clients, kind=self.cache),
            robust=robustness_of(self),
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
