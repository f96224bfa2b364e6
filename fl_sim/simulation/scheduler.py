"""Who trains when: a queue of completions on virtual time.

Nothing here knows about models, so the order of events cannot depend on how or when the
training behind them is computed.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from fl_sim.simulation.event_queue import Entry, EventQueue

NOBODY = -1
_TRIES = 16
# Events per bucket of the queue; from 8 to 128 its speed is flat.
_PER_BUCKET = 32


class TaskTimes(Protocol):
    """Device behaviour as the scheduler sees it; times are virtual seconds."""

    def __len__(self) -> int:
        """Number of clients."""
        ...

    @property
    def median_task(self) -> float:
        """Time of a typical task."""
        ...

    def begin(self, client: int, number: int, now: float, work: float) -> tuple[float, bool]:
        """Return when the client's task `number`, begun at `now`, ends and if it delivers.

        `work` is its share of a full task.
        """
        ...

    def available(self, client: int, now: float) -> float:
        """Return the first time from `now` on at which the client can begin; inf for never."""
        ...


class Event(NamedTuple):
    """Something that happened.

    Attributes
    ----------
    time : float
        Virtual time in seconds.
    client : int
        The client whose task ended, or `NOBODY` when somebody merely asked to be woken.
    base_version : int
        The version the client was given.
    delivered : bool
        False when the task broke off or the client died: there is no update.
    """

    time: float
    client: int
    base_version: int
    delivered: bool


class Scheduler:
    """Keeps `in_flight` clients busy and yields their completions in order of time.

    Idle clients are drawn uniformly. A client whose update from the current version was delivered
    rests until the next version, as in the live server: a second update from the same base adds
    weight but hardly information.

    Parameters
    ----------
    fleet : TaskTimes
        Durations, failures and availability.
    in_flight : int
        Tasks under way at a time.
    seed : int (default: 0)
        Seed of the choice among idle clients.
    rounds : bool (default: False)
        Hand out `in_flight` tasks per version, replacing only those that failed, and call off
        what is still under way when the next version comes: the synchronous way.
    work : callable, optional
        Given client and time, the share of a full task that is begun; full tasks if unset.
    """

    def __init__(
        self,
        fleet: TaskTimes,
        in_flight: int,
        seed: int = 0,
        *,
        rounds: bool = False,
        work: Callable[[int, float], float] | None = None,
    ) -> None:
        self.version = 0
        self.now = 0.0
        self._fleet, self._in_flight, self._rounds, self._work = fleet, in_flight, rounds, work
        self._random = random.Random(seed).random
        # Arrays, not lists: at 100,000 clients a boxed number is a cache miss more.
        self._idle = array("q", range(len(fleet)))
        self._resting: list[int] = []
        self._num_tasks = array("q", bytes(8 * len(fleet)))
        self._busy = 0
        # Entries end with client and base version, or ~version if there will be no update.
        self._waiting = EventQueue(_PER_BUCKET * fleet.median_task / in_flight)
        self._claimed: list[Entry] = []
        self._num_pushed = 0
        self._asleep = False

    @property
    def busy(self) -> int:
        """Number of tasks under way."""
        return self._busy

    def fill(self) -> int:
        """Hand the current version to idle clients until `in_flight` tasks are under way.

        Returns
        -------
        int
            Number of tasks begun that will deliver an update.
        """
        begun = 0
        # In a round, whoever has delivered keeps their place, and rests.
        most = self._in_flight - len(self._resting) if self._rounds else self._in_flight
        numbers, begin = self._num_tasks, self._fleet.begin
        while self._busy < most and self._idle:
            client = self._draw()
            if client == NOBODY:
                break
            number = numbers[client]
            numbers[client] = number + 1
            work = 1.0 if self._work is None else self._work(client, self.now)
            due, delivers = begin(client, number, self.now, work)
            self._busy += 1
            begun += delivers
            self._push(due, client, self.version if delivers else ~self.version)
        return begun

    def next(self) -> Event | None:
        """Advance to the next event; None when nothing will ever happen again."""
        head = self._waiting.head()
        if self._claimed and (head is None or self._claimed[0] < head):
            self.now, _, client, base = heappop(self._claimed)
        elif head is None:
            return None
        else:
            self.now, _, client, base = self._waiting.pop()
        if client == NOBODY:
            self._asleep = False
            return Event(self.now, NOBODY, self.version, False)
        self._busy -= 1
        if base < 0:
            self._idle.append(client)
            return Event(self.now, client, ~base, False)
        (self._resting if base == self.version else self._idle).append(client)
        return Event(self.now, client, base, True)

    def claim(self, count: int, until: float) -> list[tuple[int, int]]:
        """Take the next tasks to train: those that complete earliest and were not taken before.

        Parameters
        ----------
        count : int
            Most tasks to take.
        until : float
            Tasks due later are left alone.

        Returns
        -------
        list of (client, base version)
            In the order of completion.
        """
        taken: list[tuple[int, int]] = []
        while len(taken) < count:
            head = self._waiting.head()
            if head is None or head[0] > until:
                break
            heappush(self._claimed, self._waiting.pop())
            if head[2] != NOBODY and head[3] >= 0:
                taken.append(head[2:])
        return taken

    def advance(self, version: int) -> list[tuple[int, int]]:
        """Hand out `version` from now on; clients that rested may work again.

        Returns
        -------
        list of (client, base version)
            Tasks that would have delivered and were called off; none unless in rounds.
        """
        self.version = version
        if self._resting:
            self._idle.extend(self._resting)
            self._resting = []
        return self._call_off() if self._rounds else []

    def wake(self, at: float) -> None:
        """Ask for an event at the time `at`."""
        self._push(at, NOBODY, self.version)

    def _call_off(self) -> list[tuple[int, int]]:
        # Sorted, because the order inside the queues depends on what was claimed.
        entries, self._claimed = sorted(self._claimed + self._waiting.clear()), []
        lost = []
        for entry in entries:
            client, base = entry[2:]
            if client == NOBODY:
                self._waiting.push(entry)
                continue
            self._idle.append(client)
            if base >= 0:
                lost.append((client, base))
        self._busy = 0
        return lost

    def _draw(self) -> int:
        """Take an available client from the idle ones, or arrange to be woken."""
        idle, now = self._idle, self.now
        for _ in range(_TRIES):
            place = int(self._random() * len(idle))
            client = idle[place]
            ready = self._fleet.available(client, now)
            if now < ready < math.inf:
                continue
            idle[place] = idle[-1]
            idle.pop()
            if ready <= now:
                return client
            if not idle:
                return NOBODY
        return self._search()

    def _search(self) -> int:
        times = [self._fleet.available(client, self.now) for client in self._idle]
        online = [place for place, ready in enumerate(times) if ready <= self.now]
        if online:
            return self._idle.pop(online[int(self._random() * len(online))])
        first = min(times)
        if first < math.inf and not self._asleep:
            self._asleep = True
            self.wake(first)
        return NOBODY

    def _push(self, due: float, client: int, base: int) -> None:
        self._num_pushed += 1
        self._waiting.push((due, self._num_pushed, client, base))
