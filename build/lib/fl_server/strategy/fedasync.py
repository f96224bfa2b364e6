"""FedAsync (Xie et al., 1903.03934) as a Flower strategy."""

from __future__ import annotations

from typing import Unpack

from fl_server.strategy.async_strategy import AsyncStrategy
from fl_server.strategy.options import StrategyOptions
from strategies.recipes import fedasync
from strategies.recipes.fedasync import Staleness


class FedAsync(AsyncStrategy):
    """Mix every client model into the global model as it arrives.

    The rule is ``w = (1 - a s(tau)) w + a s(tau) w_i`` (algorithm 1 of the paper). Every
    version depends on a single update, so this strategy is refused in confidential mode.

    Parameters
    ----------
    mixing : float (default: 0.6)
        Weight a of a fresh client model, in (0, 1].
    staleness : {"polynomial", "constant", "hinge"} (default: "polynomial")
        Staleness function s.
    staleness_exponent : float (default: 0.5)
        Exponent of the polynomial ``(1 + tau) ** -exponent``.
    hinge_slope : float (default: 10.0)
        Slope of the hinge.
    hinge_delay : float (default: 4.0)
        Staleness that costs nothing under the hinge, in versions.
    published_rounds : float (default: 0.0)
        Publish the running mean of about this many uploads per client; 0 publishes the model
        clients train from.
    **options
        The options of `AsyncStrategy`, which are FedAvg's and a few more.
    """

    def __init__(
        self,
        *,
        mixing: float = 0.6,
        staleness: Staleness = "polynomial",
        staleness_exponent: float = 0.5,
        hinge_slope: float = 10.0,
        hinge_delay: float = 4.0,
        published_rounds: float = 0.0,
        **options: Unpack[StrategyOptions],
    ) -> None:
        recipe = fedasync.FedAsync(
            mixing=mixing,
            staleness=staleness,
            staleness_exponent=staleness_exponent,
            hinge_slope=hinge_slope,
            hinge_delay=hinge_delay,
            published_rounds=published_rounds,
        )
        super().__init__(recipe, **options)
