"""A circuit breaker whose half-open state lets exactly one caller through.

After five failures in a row it opens: callers are refused at once for 10 s, while whoever is down
comes back up undisturbed. Then one caller, the probe, is let through, and everybody else goes on
being refused until it is back. A probe that succeeds closes the breaker; one that fails opens it
for twice as long, up to 30 s (Nygard, *Release It!*, chapter "Stability Patterns").

The libraries for it let all callers through at once where they are asked from several threads,
or read a clock of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from fl_protocol.codes import Code, GatewayUnavailable
from fl_protocol.ports import Clock

FAILURES = 5
FIRST_REST, LONGEST_REST = 10.0, 30.0

_Result = TypeVar("_Result")


class CircuitBreaker:
    """Guards calls to one service; safe to share between threads.

    Parameters
    ----------
    clock : Clock
        Time. One that is set back lengthens a rest by no more than the rest itself.
    counts : callable
        Whether an error says that the service cannot be reached; any other is an answer.
    """

    def __init__(self, clock: Clock, counts: Callable[[Exception], bool]) -> None:
        self._clock, self._counts = clock, counts
        self._lock = threading.Lock()
        self._failures = 0
        self._rest = FIRST_REST
        self._opened: float | None = None
        self._probing = False

    def call(self, attempt: Callable[[], _Result]) -> _Result:
        """Make an attempt, unless the breaker is open.

        Raises
        ------
        GatewayUnavailable
            ``CIRCUIT_OPEN``, with `retry_after` the seconds until the next probe.
        """
        self._enter()
        try:
            result = attempt()
        except Exception as error:
            self._leave(failed=self._counts(error))
            raise
        except BaseException:
            # Interrupted: nothing is known, and somebody else may probe.
            self._abandon()
            raise
        self._leave(failed=False)
        return result

    def _enter(self) -> None:
        with self._lock:
            if self._opened is None:
                return
            waited = self._clock.now() - self._opened
            if waited < 0:
                # The clock was set back.
                self._opened, waited = self._clock.now(), 0.0
            left = self._rest - waited
            if left <= 0 and not self._probing:
                self._probing = True
                return
        raise GatewayUnavailable(Code.CIRCUIT_OPEN, retry_after=max(0.0, left))

    def _leave(self, failed: bool) -> None:
        with self._lock:
            probed, self._probing = self._probing, False
            if not failed:
                self._failures, self._rest, self._opened = 0, FIRST_REST, None
                return
            self._failures += 1
            if probed:
                self._rest = min(2 * self._rest, LONGEST_REST)
            if probed or (self._opened is None and self._failures >= FAILURES):
                self._opened = self._clock.now()

    def _abandon(self) -> None:
        with self._lock:
            self._probing = False
