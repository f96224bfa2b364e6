"""Async-WA, this project's recipe, as a Flower strategy."""

from __future__ import annotations

from typing import Unpack

from fl_server.strategy.async_strategy import AsyncStrategy
from fl_server.strategy.options import StrategyOptions
from strategies.cached_rows import CacheKind
from strategies.recipe import Recipe
from strategies.recipes import async_wa
from strategies.recipes.async_wa import buffer_size_for

CONFIDENTIAL_BUFFER_SIZE = 10


class AsyncWA(AsyncStrategy):
    """Weighted averaging of what is new, on top of every client's last word.

    The server remembers each client's latest delta; every upload moves the model by the mean
    of those plus what has just changed, weighted by data volume and freshness, normalised by its
    recent size, and the running mean of the versions is published. See
    ``strategies.recipes.async_wa`` for the equations.

    Parameters
    ----------
    buffer_size : int, optional
        K: innovations in the window, or updates per buffer if `disjoint`. If unset, a sixth of
        the tasks in flight; 10 in confidential mode.
    disjoint : bool, optional
        False merges at every upload over a sliding window; True merges disjoint buffers of K,
        each update used once. If unset, True in confidential mode, which needs it, else False.
    volume_exponent : float (default: 0.25)
        Weight by the number of examples to this power.
    staleness_exponent : float (default: 0.5)
        Strength of the discount of old innovations.
    server_lr : float, optional
        Server learning rate. Adaptive: how far a coordinate moves per round, about, 0.06 unless
        set; otherwise a factor of the direction, 1 unless set.
    adaptive : bool (default: True)
        False takes the direction as it is instead of normalising it and its gain; not for models
        with running statistics, such as those of batch normalisation, which may then diverge.
    self_tuning : bool (default: True)
        Sliding windows only: lengthen the step while clients' deltas keep pointing the way the
        model goes, shorten it when they turn. False keeps it.
    drift_correction : bool (default: True)
        False merges raw deltas: the plain window of the last K updates.
    fitted_correction : bool (default: True)
        Sliding windows only: fit how much of a client's last delta is taken off its next one. False
        takes all of it off.
    num_clients : int, optional
        Size of the federation, if known; clients heard of so far if unset.
    published_rounds : float (default: 30.0)
        The mean of the newest fifth of the versions is published, at most of so many uploads per
        client; 0 publishes the model itself.
    max_age : float (default: 100.0)
        Uploads per client after which a silent client's cached delta is dropped.
    max_clients : int, optional
        Bound on the number of cached deltas.
    max_wait : float, optional
        Seconds after which a disjoint buffer that is not full is merged nevertheless.
    cache : {"float32", "bfloat16", "sketch", "disk"} (default: "float32")
        How the cached deltas are kept: exact, 4 bytes per parameter; rounded to 2 or to 0.56
        bytes; or exact in files in `cache_folder`, not in confidential mode.
    **options
        The options of `AsyncStrategy`, which are FedAvg's and a few more.
    """

    def __init__(
        self,
        *,
        buffer_size: int | None = None,
        disjoint: bool | None = None,
        volume_exponent: float = 0.25,
        staleness_exponent: float = 0.5,
        server_lr: float | None = None,
        adaptive: bool = True,
        self_tuning: bool = True,
        drift_correction: bool = True,
        fitted_correction: bool = True,
        num_clients: int | None = None,
        published_rounds: float = 30.0,
        max_age: float = 100.0,
        max_clients: int | None = None,
        max_wait: float | None = None,
        cache: CacheKind = "float32",
        **options: Unpack[StrategyOptions],
    ) -> None:
        confidential = options.get("gateway") is not None
        if buffer_size is None and confidential:
            buffer_size = CONFIDENTIAL_BUFFER_SIZE

        def recipe(in_flight: int) -> Recipe:
            return async_wa.AsyncWA(
                buffer_size=buffer_size_for(in_flight) if buffer_size is None else buffer_size,
                disjoint=confidential if disjoint is None else disjoint,
                volume_exponent=volume_exponent,
                staleness_exponent=staleness_exponent,
                server_lr=server_lr,
                adaptive=adaptive,
                self_tuning=self_tuning,
                drift_correction=drift_correction,
                fitted_correction=fitted_correction,
                num_clients=num_clients,
                published_rounds=published_rounds,
                max_age=max_age,
                max_clients=max_clients,
                max_wait=max_wait,
                cache=cache,
            )

        super().__init__(recipe if buffer_size is None else recipe(0), **options)
