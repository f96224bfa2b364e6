"""Rows of updates in one matrix, so that a merge is a single matrix product."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strategies.update import Vector


class Slab:
    """A matrix of ``capacity`` rows and one spare row to receive into.

    Accepted rows are moved only by :meth:`take`; the spare row means a caller can already hold
    a leased row while the buffer is full.

    Parameters
    ----------
    capacity : int
        Largest number of rows stored at a time.
    num_params : int
        Length P of a row.
    """

    def __init__(self, capacity: int, num_params: int) -> None:
        self.capacity = capacity
        # np.empty maps memory without touching it: rows cost nothing until first used.
        self._matrix = np.empty((capacity + 1, num_params), np.float32)
        self._used: list[int] = []
        self._free = list(range(capacity, -1, -1))
        self._leased: int | None = None

    def __len__(self) -> int:
        return len(self._used)

    def lease(self) -> Vector:
        """Return the row to receive the next update into.

        The same row is returned until it is stored.
        """
        if self._leased is None:
            self._leased = self._free.pop()
        return self._row(self._leased)

    def store(self, delta: Vector) -> None:
        """Store an update; without copying when ``delta`` is the leased row."""
        if self._leased is not None and _same_memory(delta, self._row(self._leased)):
            self._used.append(self._leased)
            self._leased = None
            return
        row = self._free.pop()
        np.copyto(self._row(row), delta)
        self._used.append(row)

    def take(self) -> npt.NDArray[np.float32]:
        """Return the stored rows in order of arrival, shape ``(len(self), P)``.

        A view unless a lease held while another update was stored left a gap between them.
        """
        count = len(self._used)
        if self._used == list(range(count)):
            return self._matrix[:count]
        return self._matrix[self._used]

    def clear(self) -> None:
        """Forget the stored rows; an outstanding lease stays valid."""
        self._used.clear()
        rows = range(self.capacity, -1, -1)
        self._free = [row for row in rows if row != self._leased]

    def _row(self, index: int) -> Vector:
        row: Vector = self._matrix[index]
        return row


def _same_memory(one: Vector, other: Vector) -> bool:
    same_start: bool = one.__array_interface__["data"][0] == other.__array_interface__["data"][0]
    return same_start and one.strides == other.strides
