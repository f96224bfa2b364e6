"""What a recipe is: a frozen set of options that composes a few parts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from strategies.drift import CachedDeltas
from strategies.errors import BadOption
from strategies.freshness import Constant, Freshness
from strategies.published import RunningMean
from strategies.server_optimiser import ServerSgd
from strategies.volume import Volume
from strategies.window import Normalise, Sliding, Window


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
        Merge innovations against cached deltas instead of raw deltas.
    mixes_models : bool
        Pull the model towards the client's model instead of adding its delta.
    server : ServerSgd
        Step of the model.
    published : RunningMean, optional
        Average the versions for publishing.
    num_clients : int, optional
        Size of the federation when known.
    """

    window: Window
    volume: Volume = field(default_factory=lambda: Volume(0.0))
    freshness: Freshness = field(default_factory=Constant)
    normalise: Normalise = "sum"
    relative_staleness: bool = False
    drift: CachedDeltas | None = None
    mixes_models: bool = False
    server: ServerSgd = field(default_factory=ServerSgd)
    published: RunningMean | None = None
    num_clients: int | None = None

    def __post_init__(self) -> None:
        if self.mixes_models and self.window != Sliding(1):
            raise BadOption("Mixing client models needs a window of exactly one update.")
        if self.normalise not in ("sum", "count"):
            raise BadOption('normalise must be "sum" or "count".')
        if self.num_clients is not None and (
            type(self.num_clients) is not int or self.num_clients < 1
        ):
            raise BadOption("num_clients must be an integer of at least 1.")

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
