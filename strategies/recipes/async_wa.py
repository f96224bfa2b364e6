"""Async-WA: weighted averaging of what is new, on top of everyone's last word.

The cached-delta correction is CA2FL's (Wang et al., ICLR 2024, algorithm 1) and the adaptive step
RMSProp's; weights by data volume and freshness, the fitted coefficient of the correction, the gain
per round, how it tunes itself and the published mean are this project's. With x the model, t its
version, h_i the last delta of client i, q_i = n_i ** b, H = sum q_j h_j, P = sum q_j, T the uploads
in which the median client uploads once, s the gain, 2 at first, and c the coefficient, 1 at first:

sliding (one version per upload of delta D from client i)

    r = D - c h_i;   H += q_i (D - h_i);   h_i = D
    window.push((r, c), q_i (1 + tau / n) ** -a)
    u = c' H / P + weighted mean of the window's last K r, with c' that of their c
    v' = decay * v + (1 - decay) * u * u
    g = max(s * lr * sqrt(1 - decay ** t) / (sqrt(v') + 0.1 rms(v)), 2)
    x += g / max(T, 12 K) * u;   v = v'

disjoint (one version per buffer of K)

    u = H / P + weighted mean of r_i = D_i - h_i over the buffer;   then H, h_i as above
    v, x as above, with K times the step per version and s = 1

Running statistics of normalisation layers, known by name, have no cached deltas: they follow

    x += K' / max(T, 6 K) * weighted mean of the deltas D in the window or the buffer

with K' = 1 sliding and K disjoint, and a variance is never less than what it would be after as long
a step among clients that have none: 1 - K' / max(T, 6 K) of itself.

The second moment remembers about 10 K uploads: decay is 0.9 per buffer, 0.9 ** (1 / K) per upload.
c is Cov(D, h_i) / Var(h_i) over the newest uploads, within [0, 1]: near 1 where clients' data
differ, near 0 where what set a client's last delta apart was chance, see
:mod:`strategies.fitted_correction`. After every max(T, 6 K) uploads s grows if the deltas still
point the way the model went, and shrinks again if they do not, within [1, 8]:
:class:`~strategies.gain.SelfTuning`. Both hear of raw deltas, about which disjoint buffers must
tell nothing but their means. ``adaptive=False`` leaves v, T and s out: x += lr / K * u sliding, x
+= lr * u disjoint.

Freshness acts on the window only, not on the cached deltas: to discount these would silence the
slow clients, often the ones with rare data. tau / n is the staleness in uploads per client (tau K /
n for disjoint buffers). Overlapping windows can be differenced, so only the disjoint form is
accepted under a release rule.

Memory beside the model: (K + clients + 8) P floats sliding, (K + clients + 4) P disjoint, one more
under a release rule; one P less without the published mean and without the adaptive step, three
less without the gain that tunes itself, no cache without drift correction, less of it with another
``cache``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from strategies.cached_rows import CacheKind
from strategies.drift import CachedDeltas
from strategies.errors import BadOption
from strategies.freshness import Polynomial
from strategies.gain import RoundGain, SelfTuning
from strategies.published import RunningMean
from strategies.recipe import Parts, options_of
from strategies.robust.robustness import RobustFilter, robustness_of
from strategies.server_optimiser import ServerOptimiser, ServerRms, ServerSgd
from strategies.volume import Volume
from strategies.window import MOST_UPDATES, Buffer, Sliding, Window

# Tuned on two to five seeds of seven of the regimes in experiments/regimes, none of them among
# those of docs/experiments/time-to-accuracy.md. Rates from 0.04 to 0.12
# differ little where speeds are moderate; higher ones are quicker with few tasks in flight and
# less steady where speeds are extreme. An epsilon of 0.1 to 0.3 and windows of 4 to 20 innovations
# differ little, and least steps of 2 to 8. Whatever clients move by up to nine tenths of what is
# missing, such as statistics that their names do not give away, stays where it should at twice the
# direction per round; at six times it diverges among clients that are equally fast. How the gain
# tunes itself was chosen on seeds 30 to 35 of the regimes there were, all but plays; that the
# correction is fitted, on seeds 30 to 32 of all of them, and that the gain begins at 2, on those of
# all but extreme-speeds, both also on the first twenty of docs/experiments/random-settings.md.
_PER_ROUND = 0.06
_LEAST = 2.0
_SHORTEST = 12.0
_SHORTEST_TO_TUNE = 6.0
# The tasks in flight over the K that `buffer_size_for` chooses.
_SHORTEST_OF_STATISTICS = 6.0
_DECAY = 0.9
_SHARE = 0.2

_FLAGS = ("disjoint", "adaptive", "self_tuning", "drift_correction", "fitted_correction")


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
    server_lr : float, optional
        Server learning rate. Adaptive: how far a coordinate moves per round, about, 0.06 unless
        set, and at least by twice its direction; otherwise a factor of the direction, 1
        unless set.
    adaptive : bool
        False takes the direction as it is, scaled by 1 / K for sliding windows; not for models
        with running statistics, which may then diverge.
    self_tuning : bool
        False keeps the gain as it is; it does so without the adaptive step, and in disjoint
        buffers.
    drift_correction : bool
        False merges raw deltas: the plain window of the last K updates.
    fitted_correction : bool
        False takes all of h_i off D and adds all of H / P, as disjoint buffers do: c = 1.
    num_clients : int, optional
        n, when known; by default the clients heard of.
    published_rounds : float
        The mean of the newest fifth of the versions is published, at most of so many uploads per
        client; 0 publishes the model itself.
    max_age : float
        Uploads per client after which a silent client's cached delta is dropped.
    max_clients : int, optional
        Bound on the number of cached deltas.
    max_wait : float, optional
        Seconds after which a buffer that is not full is merged; disjoint only.
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

    name: ClassVar[str] = "async-wa"

    buffer_size: int = 10
    disjoint: bool = False
    volume_exponent: float = 0.25
    staleness_exponent: float = 0.5
    server_lr: float | None = None
    adaptive: bool = True
    self_tuning: bool = True
    drift_correction: bool = True
    fitted_correction: bool = True
    num_clients: int | None = None
    published_rounds: float = 30.0
    max_age: float = 100.0
    max_clients: int | None = None
    max_wait: float | None = None
    cache: CacheKind = "float32"
    robust: RobustFilter | None = None
    clip_norm: float | None = None
    attackers: float = 0.2
    trusted_client: str | None = None

    def __post_init__(self) -> None:
        for name in _FLAGS:
            if type(getattr(self, name)) is not bool:
                raise BadOption(f"{name} is true or false.")
        if self.max_wait is not None and not self.disjoint:
            raise BadOption("max_wait needs disjoint buffers; a sliding window never waits.")
        self.parts()

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        fitted = self.fitted_correction and not self.disjoint
        drift = CachedDeltas(self.max_age, self.max_clients, kind=self.cache, fitted=fitted)
        published = RunningMean(self.published_rounds, _SHARE) if self.published_rounds else None
        return Parts(
            window=self._window(),
            volume=Volume(self.volume_exponent),
            freshness=Polynomial(self.staleness_exponent),
            relative_staleness=True,
            drift=drift if self.drift_correction else None,
            robust=robustness_of(self),
            server=self._server(),
            gain=self._gain(),
            published=published,
            num_clients=self.num_clients,
        )

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        return options_of(self)

    def _server(self) -> ServerOptimiser:
        if not self.adaptive:
            lr = 1.0 if self.server_lr is None else self.server_lr
            return ServerSgd(lr if self.disjoint else lr / self.buffer_size)
        decay = _DECAY if self.disjoint else _DECAY ** (1.0 / self.buffer_size)
        lr = _PER_ROUND if self.server_lr is None else self.server_lr
        return ServerRms(lr, decay, least=_LEAST)

    def _gain(self) -> RoundGain | None:
        if not self.adaptive:
            return None
        tunes = self.self_tuning and not self.disjoint
        return RoundGain(
            _SHORTEST * self.buffer_size,
            SelfTuning(_SHORTEST_TO_TUNE * self.buffer_size) if tunes else None,
            _SHORTEST_OF_STATISTICS * self.buffer_size,
        )

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
        round(in_flight / 6), from 1 to the most there can be, 100,000: a round then takes at least
        two uploads per task in flight.
    """
    return min(max(1, round(in_flight / 6)), MOST_UPDATES)
