"""Integers from the discrete Gaussian distribution, without floating-point holes.

Canonne, Kamath and Steinke, *The Discrete Gaussian for Differential Privacy* (NeurIPS 2020),
definition 1: P(y) is proportional to exp(-y^2 / (2 sigma^2)) on the integers. Rejection from strips
of B integers each: with y >= 0, strip h holds hB to hB + B - 1,

    h with weight exp(-(hB)^2 / (2 sigma^2)),    l uniform below B,    y = hB + l,
    accept with exp(-l (2hB + l) / (2 sigma^2)),    then a sign; minus zero is rejected.

Every comparison of a uniform number with a probability is made to 128 bits: with numpy on the
leading bits where these decide it beyond doubt, with integers in the few cases where they do not.
Together with the end of the table at 14 sigma that leaves a total variation distance below 2^-110
per integer, which adds nothing to any delta in use. Many integers are drawn together, so how long
it takes says next to nothing about any of them.
"""

from __future__ import annotations

import decimal
from bisect import bisect_right
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from strategies.errors import BadOption

Entropy: TypeAlias = Callable[[int], bytes]
"""Returns so many bytes of a cryptographic generator, such as ``os.urandom``."""

Integers: TypeAlias = npt.NDArray[np.int64]
_Words: TypeAlias = npt.NDArray[np.uint64]

MAX_SIGMA = 1 << 30

_TAIL = 14
_STRIPS_PER_SIGMA = 64
_CONTEXT = decimal.Context(prec=60)
_ONE, _HALF = 1 << 128, 1 << 64
# Far above what rounding does to numpy's exponential, about 2^-51.
_DOUBT = 2.0**-44


class DiscreteGaussian:
    """A sampler.

    Parameters
    ----------
    sigma : int
        Scale, from 1 to 2^30; the standard deviation is no larger.
    entropy : callable
        Source of random bytes, 24 for each integer.

    Raises
    ------
    BadOption
        The scale is out of range.
    """

    def __init__(self, sigma: int, entropy: Entropy) -> None:
        if type(sigma) is not int or not 1 <= sigma <= MAX_SIGMA:
            raise BadOption("The scale of a discrete Gaussian must be an integer from 1 to 2^30.")
        self._entropy, self._twice_variance = entropy, 2 * sigma * sigma
        # A power of two, so that the low bits of a word are uniform below it.
        self._width = 1 << max(0, (sigma // _STRIPS_PER_SIGMA).bit_length() - 1)
        self._thresholds = self._cumulated(-(-_TAIL * sigma // self._width))
        leading = [threshold >> 64 for threshold in self._thresholds]
        self._leading: _Words = np.array(leading, np.uint64)

    def sample(self, count: int) -> Integers:
        """Return independent integers, shape ``(count,)``."""
        found = np.empty(count, np.int64)
        filled = 0
        while filled < count:
            # Few are rejected, so a second round is short.
            drawn = self._draw(count - filled)
            found[filled : filled + len(drawn)] = drawn
            filled += len(drawn)
        return found

    def _draw(self, count: int) -> Integers:
        choice, place, verdict = self._words(3, count)
        starts = self._strips(choice) * self._width
        within = (place & np.uint64(self._width - 1)).astype(np.int64)
        values = starts + within
        kept = self._accepted(verdict, within * (starts + values))
        negative = place >> np.uint64(63) != 0
        kept &= ~(negative & (values == 0))
        drawn: Integers = np.where(negative, -values, values)[kept]
        return drawn

    def _strips(self, words: _Words) -> Integers:
        strips = np.searchsorted(self._leading, words)
        doubtful = self._leading[np.minimum(strips, len(self._leading) - 1)] == words
        for index in np.flatnonzero(doubtful):
            strips[index] = bisect_right(self._thresholds, self._extended(words[index]))
        return np.minimum(strips, len(self._thresholds)).astype(np.int64, copy=False)

    def _accepted(self, words: _Words, exponents: Integers) -> npt.NDArray[np.bool_]:
        chances = np.exp(exponents / -float(self._twice_variance))
        gaps = chances - words.astype(np.float64) * 2.0**-64
        accepted = gaps > 0
        for index in np.flatnonzero(np.abs(gaps) < _DOUBT):
            chance = _exponential(int(exponents[index]), self._twice_variance)
            accepted[index] = self._extended(words[index]) < _scaled(chance)
        return accepted

    def _cumulated(self, strips: int) -> list[int]:
        """Return where each strip but the last ends on a scale of 2^128."""
        weights = [
            _exponential((h * self._width) ** 2, self._twice_variance) for h in range(strips + 1)
        ]
        with decimal.localcontext(_CONTEXT):
            total, ends, reached = sum(weights), [], decimal.Decimal(0)
            for weight in weights[:-1]:
                reached += weight
                ends.append(_scaled(reached / total))
        return ends

    def _words(self, rows: int, count: int) -> _Words:
        return np.frombuffer(self._entropy(8 * rows * count), np.uint64).reshape(rows, count)

    def _extended(self, word: np.uint64) -> int:
        """Return a uniform number below 2^128 that begins with a word."""
        return int(word) * _HALF + int.from_bytes(self._entropy(8), "little")


def _exponential(numerator: int, denominator: int) -> decimal.Decimal:
    """Return exp(-numerator / denominator) to 60 digits."""
    return _CONTEXT.exp(_CONTEXT.divide(decimal.Decimal(-numerator), decimal.Decimal(denominator)))


def _scaled(share: decimal.Decimal) -> int:
    return int(_CONTEXT.multiply(share, decimal.Decimal(_ONE)))
