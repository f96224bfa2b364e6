"""Virtual time: seconds that pass only when somebody waits."""

from __future__ import annotations

import math


class VirtualClock:
    """A clock that jumps instead of waiting.

    Satisfies the ``Clock`` port (``now``, ``sleep``). An *alarm* bounds how far a grid may
    jump on its own, so that whoever has a timer of its own (a back-off, a deadline) is woken
    in time.

    Parameters
    ----------
    start : float (default: 0.0)
        Time shown at the beginning, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._alarm = math.inf

    @property
    def alarm(self) -> float:
        """The time in seconds nobody may jump past; infinity when no alarm is set."""
        return self._alarm

    def now(self) -> float:
        """Return the current virtual time in seconds."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Advance by `seconds`; negative durations do nothing."""
        self.advance_to(self._now + seconds)

    def advance_to(self, when: float) -> None:
        """Advance to the time `when` in seconds; time never runs backwards."""
        self._now = max(self._now, when)

    def set_alarm(self, when: float) -> None:
        """Ask not to be carried past the time `when` in seconds; infinity clears it."""
        self._alarm = when
