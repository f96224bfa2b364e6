"""What a recipe is: a frozen set of options that composes a few parts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from strategies.drift import CachedDeltas
from strategies.errors import BadOption
from strategies.freshness import Constant, Freshness
from strategies.gain import RoundGain
from strategies.published import RunningMean
from strategies.robust.robustness import Robustness
from strategies.roles import Roles
from strategies.server_optimiser import ServerOptimiser, ServerSgd
from strategies.volume import Volume
from strategies.window import Normalise, Sliding, Window

if TYPE_CHECKING:
    from strategies.aggregators import Aggregator, Bench


class UploadRule(Protocol):
    """How a single upload becomes a direction, where that is more than its delta."""

    @property
    def keeps_models(self) -> bool:
        """Whether the rule asks for the models that updates were trained from."""
        ...

    def aggregator(self, bench: Bench) -> Aggregator:
        """Return what carries the rule out."""
        ...


@dataclass(frozen=True)
class Parts:
    """The parts of a recipe; the engine puts them together.

    Parameters
    ----------
    window : Window
        Disjoint buffer or sliding window.
    volume : Volume
        Weight by number of examples.
    freshness : Freshness
        Weight by staleness.
    normalise : {"sum", "count"}
        Divide the weighted sum by the sum of the weights or by the number of updates.
    relative_staleness : bool
        Measure staleness in uploads per client instead of versions.
    drift : CachedDeltas, optional
        Merge innovations against cached deltas instead of raw deltas. A correction that is fitted
        needs a sliding window, for the reason that holds for a gain that tunes itself.
    average_staleness : bool
        Weigh an update by the mean staleness of all its client sent, not by its own.
    upload : UploadRule, optional
        What an upload adds instead of its weighted delta; needs a window of one update.
    robust : Robustness, optional
        Filter for hostile updates; needs disjoint buffers.
    server : ServerOptimiser
        Step of the model.
    gain : RoundGain, optional
        Divide the server's step by the number of uploads in a round; running statistics then
        follow the mean delta, a whole one per round, whatever the server's step. One that tunes
        itself needs a sliding window: the models that buffers release are to be functions of
        their means alone.
    published : RunningMean, optional
        Average the versions for publishing.
    num_clients : int, optional
        Size of the federation when known.
    max_staleness : int, optional
        Updates that lag further behind are refused, whatever the engine's limits allow.
    max_age : float, optional
        Uploads per client after which a silent client leaves, for rules without cached deltas.
    cohort : int, optional
        Tasks to hand out per version, no more before the next; None keeps clients at work.
    """

    window: Window
    volume: Volume = field(default_factory=lambda: Volume(0.0))
    freshness: Freshness = field(default_factory=Constant)
    normalise: Normalise = "sum"
    relative_staleness: bool = False
    drift: CachedDeltas | None = None
    average_staleness: bool = False
    upload: UploadRule | None = None
    robust: Robustness | None = None
    server: ServerOptimiser = field(default_factory=ServerSgd)
    gain: RoundGain | None = None
    published: RunningMean | None = None
    num_clients: int | None = None
    max_staleness: int | None = None
    max_age: float | None = None
    cohort: int | None = None

    def __post_init__(self) -> None:
        if self.upload is not None and self.window != Sliding(1):
            raise BadOption("A rule for single uploads needs a window of exactly one update.")
        if self.robust is not None and isinstance(self.window, Sliding):
            raise BadOption("A filter needs disjoint buffers: there is no choice among one update.")
        if self.gain is not None and self.gain.tuning and not isinstance(self.window, Sliding):
            raise BadOption("A gain that tunes itself needs a sliding window.")
        if self.drift is not None and self.drift.fitted and not isinstance(self.window, Sliding):
            raise BadOption("A drift correction that is fitted needs a sliding window.")
        if self.normalise not in ("sum", "count"):
            raise BadOption('normalise must be "sum" or "count".')
        if self.num_clients is not None and (
            type(self.num_clients) is not int or not 1 <= self.num_clients <= 10**9
        ):
            raise BadOption("num_clients must be an integer from 1 to 1,000,000,000.")
        if self.max_age is not None:
            CachedDeltas(self.max_age)

    @property
    def forgetting(self) -> CachedDeltas:
        """When silent clients are forgotten."""
        if self.drift is not None:
            return self.drift
        return CachedDeltas() if self.max_age is None else CachedDeltas(self.max_age)

    def roles_used(self, roles: Roles) -> Roles:
        """Return the roles of columns that the step tells apart: none without a gain."""
        return Roles() if self.gain is None else roles

    @property
    def keeps_models(self) -> bool:
        """Whether the engine keeps the models of all versions an update may start from."""
        return self.upload is not None and self.upload.keeps_models

    @property
    def uploads_per_merge(self) -> int:
        """Uploads that one version stands for when nobody is late."""
        return 1 if isinstance(self.window, Sliding) else self.window.size


class Recipe(Protocol):
    """An asynchronous aggregation rule, named and configured."""

    @property
    def name(self) -> str:
        """Name in the catalogue."""
        ...

    @property
    def disjoint(self) -> bool:
        """Whether every update is used in exactly one release (safe under a release rule)."""
        ...

    def parts(self) -> Parts:
        """Return the parts that make up the rule."""
        ...

    def options(self) -> dict[str, str]:
        """Return the options as strings; ``recipe_from`` reads them back."""
        ...


def options_of(recipe: Any) -> dict[str, str]:
    """Write a recipe's fields as strings, fit for canonical JSON and digests.

    Parameters
    ----------
    recipe : dataclass instance
        The recipe.

    Returns
    -------
    dict of str to str
        Numbers in their shortest exact decimal form, booleans as true / false, None as none.
    """
    return {f.name: _text(getattr(recipe, f.name), str(f.type)) for f in fields(recipe)}


def _text(value: Any, declared: str) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    # 2 and 2.0 are the same option and must not change a policy's digest.
    return repr(float(value)) if declared.startswith("float") else str(value)
