"""AREA: the exact mean of everyone's latest model (model replacement).

Iakovidou and Kim, *Asynchronous Federated Stochastic Optimization for Heterogeneous Objectives
Under Arbitrary Delays* (2405.10123), algorithm AREA: client i sends what its local model y_i has
changed since its last upload, and w stays the mean of all y_i. MR.AsyncFL keeps the same
invariant on the server: a client's new model replaces its old one. With y_i = base model + d_i,

    w <- w + lr * (mean_j y_j - w).

Our reading: the server keeps the models, which gives the same w, and moves at every upload, where
AREA's server may collect several; the mean goes over the clients heard of, where AREA's goes over
all and counts those not yet heard of as the initial model.
Successive models differ by one client's change, so the recipe is refused under a release rule.

Memory beside the model: (clients + max_staleness + 4) P floats, for the base models within
max_staleness are kept; one more P with the published mean, less per client with another ``cache``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.cached_rows import CacheKind
from strategies.drift import CachedDeltas
from strategies.engagement import LatestModels
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.volume import Volume
from strategies.window import Sliding


@dataclass(frozen=True)
class AREA:
    """AREA, also known as model replacement (MR.AsyncFL).

    Parameters
    ----------
    server_lr : float
        Share of the way to the mean; 1 replaces exactly.
    volume_exponent : float
        Weight of a client with n examples is n to this power; 0 in the paper.
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

    name: ClassVar[str] = "area"
    disjoint: ClassVar[bool] = False

    server_lr: float = 1.0
    volume_exponent: float = 0.0
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
            volume=Volume(self.volume_exponent),
            drift=CachedDeltas(self.max_age, self.max_clients, kind=self.cache),
            upload=LatestModels(),
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)
