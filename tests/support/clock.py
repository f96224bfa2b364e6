"""A clock under test control."""

from __future__ import annotations

NOW = 1_800_000_000.0


class SetClock:
    """A clock that moves only when told to."""

    def __init__(self, now: float = NOW) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
