"""Waiting: for replies, on real and on virtual time, and for nodes at the start."""

from __future__ import annotations

from collections.abc import Sequence
from logging import INFO
from typing import Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from fl_protocol.codes import AsynclaveError, Code
from fl_protocol.ports import Clock
from fl_server.strategy.dispatch import Fleet
from fl_server.strategy.flwr_compat import announcements_of, log
from fl_server.strategy.pulls import BackgroundPulls

REFRESH_SECONDS = 1.0
SHORTEST_POLL = 0.02
LONGEST_POLL = 0.25


class NoProgress(AsynclaveError):
    """No version was merged for as long as the run's timeout."""


@runtime_checkable
class AlarmClock(Protocol):
    """A clock of virtual time, which a grid may advance up to an alarm."""

    def set_alarm(self, when: float) -> None:
        """Ask not to be carried past a time in seconds."""
        ...


class Pacer:
    """Pulls replies without waking up more often than needed.

    On real time an empty pull is followed by a rest that doubles from 20 ms to 250 ms. On
    virtual time the grid jumps to the next reply itself.

    Parameters
    ----------
    grid : Grid
        Where replies come from.
    clock : Clock
        The run's clock.
    """

    def __init__(self, grid: Grid, clock: Clock) -> None:
        self._grid, self._clock = grid, clock
        self._poll = SHORTEST_POLL
        announce = announcements_of(grid)
        self._pulls = None if announce is None else BackgroundPulls(announce)

    def receive(self, pending: Sequence[str], wake: float) -> list[Message]:
        """Return the replies that are there; if none, rest no longer than until `wake`."""
        virtual = isinstance(self._clock, AlarmClock)
        if isinstance(self._clock, AlarmClock):
            self._clock.set_alarm(wake)
        replies = self._pull(pending)
        if replies:
            self._poll = SHORTEST_POLL
        else:
            rest = max(0.0, wake - self._clock.now())
            self._clock.sleep(rest if virtual else min(rest, self._poll))
            self._poll = min(2 * self._poll, LONGEST_POLL)
        return replies

    def _pull(self, pending: Sequence[str]) -> list[Message]:
        if self._pulls:
            return self._pulls.take(pending)
        return list(self._grid.pull_messages(pending)) if pending else []


def wait_for_nodes(grid: Grid, clock: Clock, fleet: Fleet, minimum: int, timeout: float) -> None:
    """Wait until enough nodes are connected.

    Raises
    ------
    NoProgress
        If fewer than `minimum` nodes are connected after `timeout` seconds.
    """
    end = clock.now() + timeout
    fleet.connect(grid.get_node_ids())
    while len(fleet.connected) < max(1, minimum):
        count = len(fleet.connected)
        log(INFO, "Waiting for nodes to connect: %d connected (minimum %d).", count, minimum)
        if clock.now() >= end:
            raise NoProgress(
                Code.NO_PROGRESS,
                f"{count} of {minimum} nodes connected within {timeout:g} s. Start more "
                "SuperNodes, or lower min_available_nodes.",
            )
        clock.sleep(REFRESH_SECONDS)
        fleet.connect(grid.get_node_ids())
