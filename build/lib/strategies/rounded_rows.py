"""Cached rows in fewer bits than float32.

``SketchedRows`` divides each group of 64 values by its largest magnitude and rounds to the nearest
of 15 levels (block-wise quantisation: Dettmers et al., *8-bit Optimizers via Block-wise
Quantization*, ICLR 2022, 2110.02861). Why this and not another sketch of the same size:

- Deltas are dense. A count sketch (Charikar et al., 2002; FetchSGD, 2007.07682) estimates each of
  P values from P / c counters with a variance of about c |h|^2 / P: for c = 7 an error of seven
  times the energy of the row, so that storing nothing would be better. Keeping the largest values
  is good only where few of them hold the energy.
- The mean squared error of b bits per value falls as 4 ** -b (rate and distortion of a Gaussian
  source): a sign and a scale leave 1 - 2 / pi = 36 % of the energy, 4 bits here about 1 %, which
  accuracy does not notice where innovations put it back (docs/experiments/cache-cost.md).

Nearest rounding rather than QSGD's random one (Alistarh et al., 2017): half its squared error,
no random numbers to save and restore, and nothing for a bias to build up in, for a row is
written afresh at each upload.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from strategies.cached_rows import Row
from strategies.update import Vector

GROUP = 64
"""Values that share a scale in a sketch."""

_LEVELS = np.float32(7.0)
_CODES = GROUP // 2
_SKETCH = np.dtype([("scale", np.float32), ("codes", np.uint8, (_CODES,))])


class BFloat16Rows:
    """Rows in bfloat16, rounded to nearest, ties to even: 2 bytes per parameter.

    bfloat16 is the upper half of float32 (Kalamkar et al., *A Study of BFLOAT16 for Deep Learning
    Training*, 1905.12322): the same range, relative errors up to 2**-8. Rounding up to infinity
    takes a value above 2**128 - 2**119, where float32 itself ends; norms of deltas are bounded
    by 2**100.

    Parameters
    ----------
    num_params : int
        Length P of a row.
    """

    def __init__(self, num_params: int) -> None:
        self._num_params = num_params
        self._bits = np.empty(0, np.uint32)

    @property
    def form(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Type and shape of a row as an array: the upper halves of the values."""
        return np.dtype(np.uint16), (self._num_params,)

    def new(self) -> Row:
        """Return a row."""
        return np.empty(self._num_params, np.uint16)

    def free(self, row: Row) -> None:
        """Let go of a row."""

    def read(self, row: Row, columns: slice, scratch: Vector) -> Vector:
        """Write the block to ``scratch``."""
        bits = scratch.view(np.uint32)
        np.copyto(bits, row[columns])
        bits <<= np.uint32(16)
        return scratch

    def write(self, row: Row, columns: slice, values: Vector) -> Vector | None:
        """Round the block and store it."""
        if self._bits.size < values.size:
            self._bits = np.empty(values.size, np.uint32)
        bits, exact = self._bits[: values.size], values.view(np.uint32)
        # Adding half a unit carries into the upper half where the value rounds up; the upper
        # half's last bit more breaks ties to even.
        np.right_shift(exact, np.uint32(16), out=bits)
        bits &= np.uint32(1)
        bits += np.uint32(0x7FFF)
        bits += exact
        bits >>= np.uint32(16)
        row[columns] = bits
        bits <<= np.uint32(16)
        errors: Vector = bits.view(np.float32)
        errors -= values
        return errors


class SketchedRows:
    """Rows of groups: a float32 scale and 64 codes of 4 bits, 0.5625 bytes per parameter.

    A code c stands for ``(c - 8) * scale`` with the scale a seventh of the group's largest
    magnitude: zero is exact and no error exceeds half a scale. The first half of a group is in
    the lower halves of the bytes.

    Parameters
    ----------
    num_params : int
        Length P of a row.
    """

    def __init__(self, num_params: int) -> None:
        self._num_groups = -(-num_params // GROUP)
        self._levels = np.empty((0, GROUP), np.float32)
        self._errors = np.empty((0, GROUP), np.float32)

    @property
    def form(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Type and shape of a row as an array."""
        return _SKETCH, (self._num_groups,)

    def new(self) -> Row:
        """Return a row."""
        return np.empty(self._num_groups, _SKETCH)

    def free(self, row: Row) -> None:
        """Let go of a row."""

    def read(self, row: Row, columns: slice, scratch: Vector) -> Vector:
        """Return the block in scratch memory of this object."""
        width = columns.stop - columns.start
        groups = row[_groups(columns)]
        levels = self._room(len(groups))[0]
        codes = groups["codes"]
        np.bitwise_and(codes, np.uint8(15), out=levels[:, :_CODES])
        np.right_shift(codes, np.uint8(4), out=levels[:, _CODES:])
        levels -= np.float32(8.0)
        levels *= groups["scale"][:, None]
        block: Vector = levels.reshape(-1)[:width]
        return block

    def write(self, row: Row, columns: slice, values: Vector) -> Vector | None:
        """Round the block and store it."""
        groups = row[_groups(columns)]
        levels, errors = self._room(len(groups))
        exact = errors.reshape(-1)
        exact[: values.size] = values
        exact[values.size :] = 0.0
        np.abs(errors, out=levels)
        scale = np.maximum.reduceat(levels.reshape(-1), np.arange(0, levels.size, GROUP)) / _LEVELS
        # Where even the largest value is too small to be divided, all codes are zero.
        np.divide(errors, np.where(scale > 0.0, scale, np.inf)[:, None], out=levels)
        np.rint(levels, out=levels)
        # The scale of denormal numbers is coarse: a quotient may pass the last level.
        np.clip(levels, -_LEVELS, _LEVELS, out=levels)
        groups["scale"] = scale
        groups["codes"] = levels[:, :_CODES] + 16 * levels[:, _CODES:] + np.float32(8 + 16 * 8)
        levels *= scale[:, None]
        np.subtract(levels, errors, out=errors)
        return exact[: values.size]

    def _room(self, groups: int) -> tuple[Vector, Vector]:
        if len(self._levels) < groups:
            self._levels = np.empty((groups, GROUP), np.float32)
            self._errors = np.empty((groups, GROUP), np.float32)
        return self._levels[:groups], self._errors[:groups]


def _groups(columns: slice) -> slice:
    return slice(columns.start // GROUP, -(-columns.stop // GROUP))
