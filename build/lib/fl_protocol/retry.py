"""Trying again while a service cannot be reached: on the caller's clock, with jitter.

From 100 ms, doubling up to 2 s, with up to 100 ms more at random, so that clients that failed
together do not come back together. A service that says how long to wait is believed. Libraries for
it wait on the machine's clock and draw from the global generator, which no simulation of faults
could put up with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fl_protocol.codes import GatewayUnavailable
from fl_protocol.ports import Clock, Rng

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0

_Result = TypeVar("_Result")
_JITTER_BYTES = 4


def retried(
    attempt: Callable[[], _Result],
    temporary: Callable[[GatewayUnavailable], bool],
    patience: float,
    clock: Clock,
    rng: Rng,
) -> _Result:
    """Make attempts until one succeeds, fails for good, or patience runs out.

    Parameters
    ----------
    attempt : callable
        Must be safe to repeat.
    temporary : callable
        Whether a failure may pass.
    patience : float
        Seconds after which no further attempt begins.
    clock, rng : Clock, Rng
        Time and jitter.
    """
    end, wait = clock.now() + patience, FIRST_WAIT
    while True:
        try:
            return attempt()
        except GatewayUnavailable as error:
            rest = max(wait + FIRST_WAIT * _share(rng), error.retry_after)
            if not temporary(error) or clock.now() + rest > end:
                raise
        clock.sleep(rest)
        wait = min(2 * wait, LONGEST_WAIT)


def _share(rng: Rng) -> float:
    """Return a random number in [0, 1)."""
    return int.from_bytes(rng.bytes(_JITTER_BYTES), "big") / 256.0**_JITTER_BYTES
