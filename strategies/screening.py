"""Checks of one update on its own: shape, count, finiteness and norm."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from strategies.errors import BadOption
from strategies.reject import Reject
from strategies.update import ClientUpdate, Vector

# An update of a larger norm could overflow float32 in a weighted sum; 2**28 of this norm do not.
_NORM_CEILING = 2.0**100
# Of a delta that others are to hide behind: float64 keeps values of 2**-29 beside it.
_RULED_CEILING = 2.0**24
_BLOCK = 65536


@dataclass(frozen=True)
class Limits:
    """Bounds on every single update.

    Parameters
    ----------
    max_staleness : int
        Versions an update may lag behind. Counted in versions, so a recipe that merges at every
        upload needs a larger bound than one that merges buffers: a client uploading once in 40
        rounds of 60 clients lags 2,400 versions. Recipes that mix models keep this many models.
    max_norm : float
        Largest L2 norm of a delta; norms above 2**100 are refused in any case, because float32
        sums of such updates overflow, and above 2**24 under a release rule, because sums would
        forget what other clients added to them.
    max_examples : int
        Largest number of examples a client may claim.
    """

    max_staleness: int = 100
    max_norm: float = float("inf")
    max_examples: int = 1_000_000

    def __post_init__(self) -> None:
        if type(self.max_staleness) is not int or self.max_staleness < 0:
            raise BadOption("max_staleness must be an integer of at least 0.")
        if not self.max_norm > 0:
            raise BadOption("max_norm must be positive.")
        if type(self.max_examples) is not int or self.max_examples < 1:
            raise BadOption("max_examples must be an integer of at least 1.")


def tightened(
    limits: Limits, max_staleness: int | None, *, clips: bool = False, ruled: bool = False
) -> Limits:
    """Return the limits with a recipe's own bound on staleness, where it is the lower one.

    Where updates are clipped, none is refused for its norm, which would tell of its content; under
    a release rule none has a norm beside which sums forget the others.
    """
    if clips:
        limits = replace(limits, max_norm=math.inf)
    elif ruled:
        limits = replace(limits, max_norm=min(limits.max_norm, _RULED_CEILING))
    if max_staleness is None or max_staleness >= limits.max_staleness:
        return limits
    return replace(limits, max_staleness=max_staleness)


def screen_form(update: ClientUpdate, limits: Limits, num_params: int) -> Reject | None:
    """Check what costs nothing: type and shape of the delta, number of examples.

    Parameters
    ----------
    update : ClientUpdate
        The update.
    limits : Limits
        The bounds in force.
    num_params : int
        Length P of the model.

    Returns
    -------
    Reject or None
        The reason to refuse it, or None.
    """
    delta = update.delta
    if not isinstance(delta, np.ndarray) or delta.dtype != np.float32:
        return Reject.WRONG_SHAPE
    if delta.shape != (num_params,):
        return Reject.WRONG_SHAPE
    if type(update.num_examples) is not int or not 1 <= update.num_examples <= limits.max_examples:
        return Reject.BAD_NUM_EXAMPLES
    return None


def screen_values(delta: Vector, limits: Limits, square: float | None = None) -> Reject | None:
    """Check finiteness and norm in one pass over the values.

    A NaN or an infinity poisons the dot product of a vector with itself, so a finite result
    proves both. Only when it is not finite, or too close to the bound for float32, the sum is
    taken again in float64, where no finite float32 vector overflows.

    Parameters
    ----------
    delta : Vector
        The update's values.
    limits : Limits
        The bounds in force.
    square : float, optional
        `squared_norm` of the values, if it was taken already.

    Returns
    -------
    Reject or None
        NONFINITE, NORM_TOO_LARGE or None.
    """
    bound = min(limits.max_norm, _NORM_CEILING) ** 2
    if square is None:
        square = squared_norm(delta)
    if math.isfinite(square) and not 0.99 * bound < square < 1.01 * bound:
        return Reject.NORM_TOO_LARGE if square > bound else None
    exact = 0.0
    for start in range(0, delta.size, _BLOCK):
        block = delta[start : start + _BLOCK].astype(np.float64)
        exact += float(np.dot(block, block))
    if not math.isfinite(exact):
        return Reject.NONFINITE
    return Reject.NORM_TOO_LARGE if exact > bound else None


def squared_norm(values: Vector) -> float:
    """Return the sum of squares in float32; not finite if a value is not, or if it overflows."""
    # Unlike np.dot, it has no warning to give.
    return float(np.vdot(values, values))
