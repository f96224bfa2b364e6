"""Moving a stale delta to where the model is now, by a first-order Taylor expansion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from strategies.aggregators import Aggregator, Arrays, Bench, Shapes
from strategies.batch import Batch
from strategies.errors import BadOption
from strategies.update import Vector

_EPSILON = np.float32(1e-7)
# The correction is quadratic in the delta: beyond this it would be infinite in float32.
_CEILING = np.float32(2.0**100)


@dataclass(frozen=True)
class DelayCompensation:
    """d - strength * d * d * (w - w_base), element by element.

    Parameters
    ----------
    strength : float
        lambda; in adaptive form lambda_0.
    decay : float, optional
        Decay m of the mean square of the deltas, by whose root the strength is then divided
        (P floats); None keeps the strength constant.
    """

    strength: float
    decay: float | None

    keeps_models: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1e9:
            raise BadOption("The strength of delay compensation must lie in [0, 1e9].")
        if self.decay is not None and not 0 <= self.decay < 1:
            raise BadOption("The decay of the mean square must lie in [0, 1).")

    def aggregator(self, bench: Bench) -> Aggregator:
        """Return what carries the rule out."""
        return _Compensator(self, bench)


class _Compensator(Aggregator):
    def __init__(self, rule: DelayCompensation, bench: Bench) -> None:
        self._rule, self._model_of = rule, bench.model_of
        self._square = None if rule.decay is None else np.zeros_like(bench.origin)

    def weigh(self, batch: Batch) -> tuple[float, ...]:
        return (1.0,)

    def direction(self, batch: Batch, columns: slice, out: Vector, scratch: Vector) -> None:
        delta = batch.rows[0, columns]
        np.multiply(delta, np.float32(self._rule.strength), out=scratch)
        if self._square is not None:
            self._divide_by_root(self._square[columns], delta, scratch, spare=out)
        base = self._model_of(batch.updates[0].base_version)
        np.subtract(batch.params[columns], base[columns], out=out)
        with np.errstate(over="ignore"):
            out *= scratch
            out *= delta
        np.clip(out, -_CEILING, _CEILING, out=out)
        np.subtract(delta, out, out=out)

    def commit(self) -> None:
        """Nothing to end."""

    def state(self) -> tuple[Any, Arrays]:
        return None, {} if self._square is None else {"mean_square": self._square.copy()}

    def shapes(self, meta: Any, num_params: int) -> Shapes:
        return {} if self._square is None else {"mean_square": (num_params,)}

    def restore(self, meta: Any, arrays: Arrays) -> None:
        if self._square is not None:
            np.copyto(self._square, arrays["mean_square"])

    def _divide_by_root(
        self, square: Vector, delta: Vector, strength: Vector, spare: Vector
    ) -> None:
        assert self._rule.decay is not None
        square *= np.float32(self._rule.decay)
        with np.errstate(over="ignore"):
            np.multiply(delta, np.float32(1 - self._rule.decay), out=spare)
            spare *= delta
            square += spare
        np.minimum(square, np.finfo(np.float32).max, out=square)
        np.add(square, _EPSILON, out=spare)
        np.sqrt(spare, out=spare)
        strength /= spare
