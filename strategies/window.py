"""Which updates a merge looks at: a disjoint buffer or a sliding window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from strategies.errors import BadOption

MOST_UPDATES = 100_000


@dataclass(frozen=True)
class Buffer:
    """Merge when ``size`` updates are there, use each exactly once, start empty again.

    Parameters
    ----------
    size : int
        The K of the literature.
    max_wait : float, optional
        Seconds after the buffer's first update at which it is merged though not full. Under a
        release rule a time-out below the rule's k still releases nothing.
    """

    size: int = 10
    max_wait: float | None = None

    def __post_init__(self) -> None:
        _check_size(self.size)
        if self.max_wait is not None and not 0 < self.max_wait < float("inf"):
            raise BadOption("The longest wait must be a positive number of seconds.")

    def due(self, pending: int, waited: float) -> bool:
        """Whether ``pending`` updates, the first of ``waited`` seconds ago, are to be merged."""
        return pending >= self.size or (self.max_wait is not None and waited >= self.max_wait)


@dataclass(frozen=True)
class Sliding:
    """Merge at every upload the last ``size`` updates.

    Successive windows overlap, so released models can be differenced: not for use under a
    release rule.

    Parameters
    ----------
    size : int
        Number of updates the window remembers.
    """

    size: int = 10

    def __post_init__(self) -> None:
        _check_size(self.size)

    def due(self, pending: int, waited: float) -> bool:
        """Every upload is merged at once."""
        return True


Window: TypeAlias = Buffer | Sliding
Normalise: TypeAlias = Literal["sum", "count"]


def _check_size(size: int) -> None:
    if type(size) is not int or not 1 <= size <= MOST_UPDATES:
        raise BadOption(f"The buffer size must be an integer from 1 to {MOST_UPDATES}.")
