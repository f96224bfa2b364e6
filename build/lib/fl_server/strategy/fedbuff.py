"""FedBuff (Nguyen et al., 2106.06639) as a Flower strategy."""

from __future__ import annotations

from typing import Unpack

from fl_server.strategy.async_strategy import AsyncStrategy
from fl_server.strategy.options import StrategyOptions
from strategies.recipe import Recipe
from strategies.recipes import fedbuff
from strategies.window import Normalise

PAPER_BUFFER_SIZE = 10


class FedBuff(AsyncStrategy):
    """Merge disjoint buffers of K updates, older ones discounted.

    The rule is ``w += server_lr / K * sum_i (1 + tau_i) ** -staleness_exponent * delta_i``
    (algorithm 1 of the paper).

    Parameters
    ----------
    buffer_size : int, optional
        K. If unset, 10 as in the paper, or half the tasks in flight where that is fewer: a
        buffer takes at most one update per node and version, so it cannot fill up with fewer
        nodes than K.
    staleness_exponent : float (default: 0.5)
        Strength of the discount; 0 switches it off.
    server_lr : float (default: 1.0)
        Server learning rate.
    server_momentum : float (default: 0.0)
        Server momentum.
    normalise : {"count", "sum"} (default: "count")
        Divide by K as in the paper, or by the sum of the weights.
    max_wait : float, optional
        Seconds after which a buffer that is not full is merged nevertheless.
    published_rounds : float (default: 0.0)
        Publish the running mean of about this many uploads per client; 0 publishes the model
        clients train from.
    **options
        The options of `AsyncStrategy`, which are FedAvg's and a few more.
    """

    def __init__(
        self,
        *,
        buffer_size: int | None = None,
        staleness_exponent: float = 0.5,
        server_lr: float = 1.0,
        server_momentum: float = 0.0,
        normalise: Normalise = "count",
        max_wait: float | None = None,
        published_rounds: float = 0.0,
        **options: Unpack[StrategyOptions],
    ) -> None:
        # In confidential mode the recipe is part of the enclave's policy and must not depend
        # on how many nodes happen to be connected.
        fixed = options.get("gateway") is not None

        def recipe(in_flight: int) -> Recipe:
            fitting = PAPER_BUFFER_SIZE if fixed else min(PAPER_BUFFER_SIZE, in_flight // 2)
            return fedbuff.FedBuff(
                buffer_size=max(1, fitting) if buffer_size is None else buffer_size,
                staleness_exponent=staleness_exponent,
                server_lr=server_lr,
                server_momentum=server_momentum,
                normalise=normalise,
                max_wait=max_wait,
                published_rounds=published_rounds,
            )

        known = buffer_size is not None or fixed
        super().__init__(recipe(0) if known else recipe, **options)
