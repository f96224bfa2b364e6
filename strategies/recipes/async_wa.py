"""Async-WA: weighted averaging of what is new, on top of everyone's last word.

The cached-delta correction is CA2FL's (Wang et al., ICLR 2024, algorithm 1); weights by data
volume and freshness, the gain of the sliding window and the published mean are this project's.
With x the model, h_i the last delta of client i, q_i = n_i ** b, H = sum q_j h_j, P = sum q_j:

sliding (one version per upload of delta D from client i)

    r = D - h_i;   H += q_i r;   h_i = D
    window.push(r, q_i (1 + tau / n) ** -a)
    x += lr / K * (H / P + weighted mean of the window's last K innovations)

disjoint (one version per buffer of K)

    x += lr * (H / P + weighted mean of r_i = D_i - h_i over the buffer);   then H, h_i as above

Freshness acts on innovations only: discounting stale deltas themselves silences the slow
clients, often the ones with rare data. tau / n is the staleness in uploads per client (tau K / n
for disjoint buffers). Overlapping windows can be differenced, so only the disjoint form is
accepted under a release rule.

Memory beside the model: (K + clients + 4) P floats sliding, (K + clients + 3) P disjoint; one P
less without the published mean, no cache without drift correction, less of it with another
``cache``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.cached_rows import CacheKind
from strategies.drift import CachedDeltas
from strategies.errors import BadOption
from strategies.freshness import Polynomial
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.server_optimiser import ServerSgd
from strategies.volume import Volume
from strategies.window import Buffer, Sliding, Window


@dataclass(frozen=True)
class AsyncWA:
    """Async-WA over a sliding window or disjoint buffers.

    Parameters
    ----------
    buffer_size : int
        K; see :func:`buffer_size_for`.
    disjoint : bool
        False: the last K innovations at every upload. True: buffers of K, each used once.
    volume_exponent : float
        b in n ** b; 1 is proportional to the number of examples.
    staleness_exponent : float
        a in (1 + tau / n) ** -a.
    server_lr : float
        Server learning rate.
    drift_correction : bool
        False merges raw deltas: the plain window of the last K updates.
    num_clients : int, optional
        n, when known; by default the clients heard of.
    published_rounds : float
        Horizon of the published mean in uploads per client; 0 publishes the model itself.
    max_age : float
        Uploads per client after which a silent client's cached delta is dropped.
    max_clients : int, optional
        Bound on the number of cached deltas.
    max_wait : float, optional
        Seconds after which a buffer that is not full is merged; disjoint only.
    cache : {"float32", "bfloat16", "sketch", "disk"}
        How the latest deltas are kept: exact; in half or a seventh of the memory, rounded;
        or on disk.

    Raises
    ------
    BadOption
        An option is out of range.
    """

    name: ClassVar[str] = "async-wa"

    buffer_size: int = 10
    disjoint: bool = False
    volume_exponent: float = 0.5
    staleness_exponent: float = 0.5
    server_lr: float = 1.0
    drift_correction: bool = True
    num_clients: int | None = None
    published_rounds: float = 2.0
    max_age: float = 100.0
    max_clients: int | None = None
    max_wait: float | None = None
    cache: CacheKind = "float32"

    def __post_init__(self) -> None:
        if type(self.disjoint) is not bool or type(self.drift_correction) is not bool:
            raise BadOption("disjoint and drift_correction are true or false.")
        if self.max_wait is not None and not self.disjoint:
            raise BadOption("max_wait needs disjoint buffers; a sliding window never waits.")
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        drift = CachedDeltas(self.max_age, self.max_clients, kind=self.cache)
        return Parts(
            window=self._window(),
            volume=Volume(self.volume_exponent),
            freshness=Polynomial(self.staleness_exponent),
            relative_staleness=True,
            drift=drift if self.drift_correction else None,
            server=ServerSgd(self.server_lr),
            published=RunningMean(self.published_rounds) if self.published_rounds else None,
            num_clients=self.num_clients,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)

    def _window(self) -> Window:
        if self.disjoint:
            return Buffer(self.buffer_size, self.max_wait)
        return Sliding(self.buffer_size)


def buffer_size_for(in_flight: int) -> int:
    """Return the K that served all regimes tried: a sixth of the tasks in flight.

    Parameters
    ----------
    in_flight : int
        Clients training at the same time.

    Returns
    -------
    int
        max(1, round(in_flight / 6)); tuned on Dirichlet 0.1 Fashion-MNIST with 25 to 60 in
        flight. Sizes of 3 and below were unstable there.
    """
    return max(1, round(in_flight / 6))
