"""Which filter a recipe puts its buffers through, and what it expects of hostile clients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

from strategies.errors import BadOption
from strategies.robust.trimmed_mean import median_cut

RobustFilter: TypeAlias = Literal["clip", "trimmed-mean", "median", "krum", "trusted-direction"]

_BY_COORDINATE = ("trimmed-mean", "median")


@dataclass(frozen=True)
class Robustness:
    """A filter for the updates of a disjoint buffer, with its parameters.

    Parameters
    ----------
    kind : {"clip", "trimmed-mean", "median", "krum", "trusted-direction"}
        The filter. Whatever it is, updates are clipped first when there is a `clip_norm`.
    clip_norm : float, optional
        Longer updates are shortened to this L2 norm; "clip" needs it.
    attackers : float
        Largest share of a buffer that may be hostile, below one half: what the trimmed mean leaves
        out at either end, and how many updates Krum leaves out; rounded down.
    trusted_client : str, optional
        Whose latest update is the trusted direction; "trusted-direction" needs it. Until it has
        sent one, merges leave the model where it is.

    Raises
    ------
    BadOption
        A parameter is out of range, or missing.
    """

    kind: RobustFilter
    clip_norm: float | None = None
    attackers: float = 0.2
    trusted_client: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(RobustFilter):
            raise BadOption(f"robust must be one of {', '.join(get_args(RobustFilter))}, or none.")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise BadOption("clip_norm must be a positive number.")
        if not 0 <= self.attackers < 0.5:
            raise BadOption("attackers must be at least 0 and below 0.5.")
        if self.kind == "clip" and self.clip_norm is None:
            raise BadOption('robust = "clip" needs a clip_norm.')
        if (self.kind == "trusted-direction") != bool(self.trusted_client):
            raise BadOption('robust = "trusted-direction" and trusted_client go together.')

    @property
    def chooses_whole_updates(self) -> bool:
        """Whether a merge is a weighted mean of whole updates, whatever they hold."""
        return self.kind in ("clip", "krum")

    def suspects(self, count: int) -> int:
        """Return how many of so many updates may be hostile."""
        # The decimal 0.3 of 10 updates is 3, though the product is a little less.
        return math.floor(round(self.attackers * count, 9))

    def cut(self, count: int) -> int:
        """Return how many values to leave out at either end of so many."""
        if self.kind not in _BY_COORDINATE:
            return 0
        widest = median_cut(count)
        return widest if self.kind == "median" else min(self.suspects(count), widest)


class RobustOptions(Protocol):
    """The options of a recipe that can filter its buffers."""

    @property
    def robust(self) -> RobustFilter | None:
        """The filter."""
        ...

    @property
    def clip_norm(self) -> float | None:
        """Largest norm."""
        ...

    @property
    def attackers(self) -> float:
        """Largest share of hostile updates."""
        ...

    @property
    def trusted_client(self) -> str | None:
        """Client with the trusted direction."""
        ...


def robustness_of(options: RobustOptions) -> Robustness | None:
    """Return what a recipe's options ask for; raises BadOption for parameters without a filter."""
    if options.robust is not None:
        return Robustness(
            options.robust, options.clip_norm, options.attackers, options.trusted_client
        )
    if options.clip_norm is not None or options.trusted_client is not None:
        raise BadOption("clip_norm and trusted_client need a filter: set robust.")
    return None
