"""How much local work a task is given."""

from __future__ import annotations

from typing import Protocol


class Pace(Protocol):
    """Decides, when a task begins, how many local steps it takes.

    It must be a pure function of what it is told and was told before: runs are compared by digest.
    It may be asked about a client that is then found offline; the last answer counts.
    """

    def steps(self, client: int, now: float) -> int:
        """Return the steps, at least 1, of the task that `client` begins at `now` (seconds)."""
        ...
