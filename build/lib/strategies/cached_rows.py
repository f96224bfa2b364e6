"""How the cache keeps a client's row: exact, rounded to fewer bits, or outside of memory.

Every row is written and read in the column blocks of a merge. The running sum of the cache
takes what a row holds, not what was written to it, so that rounding errors never add up.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from strategies.errors import BadOption
from strategies.update import Vector

CacheKind = Literal["float32", "bfloat16", "sketch", "disk"]
Row: TypeAlias = npt.NDArray[Any]


class RowSpace(Protocol):
    """Where exact rows live; numerics open no files, so a caller injects what does."""

    def new(self, num_params: int) -> Vector:
        """Return a writable row of arbitrary content, shape ``(num_params,)``."""
        ...

    def free(self, row: Vector) -> None:
        """Take back a row that is not used any more."""
        ...


class CachedRows(Protocol):
    """One format of rows; blocks begin at multiples of 64 columns."""

    @property
    def form(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Type and shape of a row as an array."""
        ...

    def new(self) -> Row:
        """Return a row of arbitrary content."""
        ...

    def free(self, row: Row) -> None:
        """Take back a row that is not used any more."""
        ...

    def read(self, row: Row, columns: slice, scratch: Vector) -> Vector:
        """Return a block of a row, either a view of it or in scratch memory.

        Parameters
        ----------
        row : Row
            What :meth:`new` returned.
        columns : slice
            The block.
        scratch : Vector
            Room for the block; may be overwritten.

        Returns
        -------
        Vector
            Not to be written to; valid until the next call.
        """
        ...

    def write(self, row: Row, columns: slice, values: Vector) -> Vector | None:
        """Store a block and return what was stored minus ``values``.

        Returns
        -------
        Vector or None
            The rounding errors, valid until the next call and free to be overwritten; None
            when there are none.
        """
        ...


def check_kind(kind: str) -> None:
    """Raise BadOption unless ``kind`` is one of ``CacheKind``."""
    if kind not in get_args(CacheKind):
        raise BadOption(f"cache must be one of {', '.join(get_args(CacheKind))}, not {kind!r}.")


class Memory:
    """Rows in this process's memory."""

    def new(self, num_params: int) -> Vector:
        """Return a row."""
        return np.empty(num_params, np.float32)

    def free(self, row: Vector) -> None:
        """Let go of a row: whoever drops the last reference frees it."""


class ExactRows:
    """Rows in float32: 4 bytes per parameter, blocks are read in place.

    Parameters
    ----------
    num_params : int
        Length P of a row.
    space : RowSpace
        Where they live.
    """

    def __init__(self, num_params: int, space: RowSpace) -> None:
        self._num_params, self._space = num_params, space

    @property
    def form(self) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Type and shape of a row as an array."""
        return np.dtype(np.float32), (self._num_params,)

    def new(self) -> Row:
        """Return a row."""
        return self._space.new(self._num_params)

    def free(self, row: Row) -> None:
        """Give a row back to where it came from."""
        self._space.free(row)

    def read(self, row: Row, columns: slice, scratch: Vector) -> Vector:
        """Return a view of the block."""
        block: Vector = row[columns]
        return block

    def write(self, row: Row, columns: slice, values: Vector) -> Vector | None:
        """Store the block as it is."""
        row[columns] = values
        return None
