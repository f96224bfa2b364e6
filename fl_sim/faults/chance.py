"""What goes wrong in a world, how often, and how often it did."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass


class Crash(BaseException):
    """The server's machine has lost power; nothing of its process goes on.

    No Exception: a process that is dead handles nothing.
    """


class Violation(Exception):
    """An invariant does not hold; the message begins with its number."""


@dataclass(frozen=True)
class Rates:
    """How often a fault strikes.

    Attributes
    ----------
    crash : float
        Per operation of the disk, the ledger or the network: the machine dies before it, in the
        middle of it or after it.
    full, failing : float
        Per write, and per sync the latter: the disk is full, or fails with EIO, for a while.
    flip : float
        Per crash: a bit in the journal is altered.
    lose_task, lose_reply, repeat, corrupt : float
        Per message: the task never arrives, the reply never comes, comes twice, or holds rubbish.
    clock_step : float
        Per reply: the server's clock is set ahead or back, by up to an hour.
    """

    crash: float = 0.004
    full: float = 0.003
    failing: float = 0.002
    flip: float = 0.05
    lose_task: float = 0.02
    lose_reply: float = 0.02
    repeat: float = 0.02
    corrupt: float = 0.02
    clock_step: float = 0.003


class Chance:
    """Draws faults from a seed, counts them, and can be told to stop.

    Parameters
    ----------
    seed : int
        Decides every fault.
    rates : object
        How often each strikes: an attribute per fault.
    """

    def __init__(self, seed: int, rates: object) -> None:
        self.rng = random.Random(seed)
        self.rates = rates
        self.struck: Counter[str] = Counter()
        self.active = True

    def strikes(self, fault: str) -> bool:
        """Say whether a fault, a name of the rates, strikes now."""
        if not self.active or self.rng.random() >= getattr(self.rates, fault):
            return False
        self.struck[fault] += 1
        return True


class ChanceRng:
    """What processes of a world draw, as `fl_protocol.ports.Rng`."""

    def __init__(self, chance: Chance) -> None:
        self._rng = chance.rng

    def bytes(self, n: int) -> bytes:
        """Return `n` bytes."""
        return self._rng.randbytes(n)
