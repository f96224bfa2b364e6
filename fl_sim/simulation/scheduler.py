"""Who trains when: a queue of completions on virtual time.

Nothing here knows about models, so the order of events cannot depend on how or when the
training behind them is computed.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable

import numpy as np

from fl_sim.simulation.event_queue import EventQueue
from fl_sim.simulation.events import NOBODY, Choice, Event, Hand, Queue, TaskTimes
from fl_sim.simulation.fleet import Clients, Times
from fl_sim.simulation.idle import IdleClients

# Clients found offline before all idle ones are looked through.
TRIES = 64
# One in so many idle clients is drawn at a time: large fleets gain speed, and a client that has
# just become idle waits little for the next draw. Below as many, clients are drawn one by one.
_HANDS = 64
_MANY = 32
# Events per bucket of the queue; from 8 to 128 its speed is flat.
_PER_BUCKET = 32


class Scheduler:
    """Keeps `in_flight` clients busy and yields their completions in order of time.

    Idle clients are drawn uniformly, unless a selector chooses. A client whose update from the
    current version was delivered rests until the next version, as in the live server: a second
    update from the same base adds weight but hardly information.

    Parameters
    ----------
    fleet : TaskTimes
        Durations, failures and availability.
    in_flight : int
        Tasks under way at a time.
    seed : int (default: 0)
        Seed of the choice among idle clients.
    rounds : bool (default: False)
        Hand out `in_flight` tasks per version, replacing only those that failed; what is still
        under way when the next version comes goes on beside that one's: the synchronous way.
    work : callable, optional
        Given client and time, the share of a full task that is begun; full tasks if unset.
    selector : Choice, optional
        Chooses among the idle clients that are available. Each choice looks at all of them, so it
        takes a time that grows with their number.
    """

    def __init__(
        self,
        fleet: TaskTimes,
        in_flight: int,
        seed: int = 0,
        *,
        rounds: bool = False,
        work: Callable[[int, float], float] | None = None,
        selector: Choice | None = None,
    ) -> None:
        self.version = 0
        self.now = 0.0
        self._fleet, self._in_flight, self._rounds, self._work = fleet, in_flight, rounds, work
        self._selector = selector
        self._begin = fleet.begin
        self._idle = IdleClients(len(fleet), seed)
        self._hand: Hand = []
        self._resting: list[int] = []
        self._num_tasks = array("q", bytes(8 * len(fleet)))
        self._busy = 0
        # In rounds, tasks under way from earlier versions.
        self._late = 0
        # Resting clients whose update was refused.
        self._refused = 0
        # The base version of each client's task; ~version if there will be no update.
        self._bases = array("q", bytes(8 * len(fleet)))
        self._queue = self._make_queue()
        self._push = self._queue.push
        self._claimed: set[int] = set()
        # When somebody who is offline is to be asked again.
        self._alarm = math.inf

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
        most = self._most()
        begun, tries, work = 0, 0, 1.0
        while self._busy < most and (self._hand or self._deal()):
            task = self._hand.pop()
            client = task[0]
            if self._work is not None:
                work = self._work(client, self.now)
            course = self._begin(task, self.now, work)
            if course is None:
                self._turn_away(client)
                tries += 1
                if tries >= min(TRIES, len(self._idle)) and not self._search():
                    break
                continue
            tries = 0
            due, delivers = course
            if due == math.inf:
                continue
            self._busy += 1
            begun += delivers
            self._bases[client] = self.version if delivers else ~self.version
            self._push(due, client)
        return begun

    def next(self) -> Event | None:
        """Advance to the next event; None when nothing will ever happen again.

        What becomes of an update is told by `answer`.
        """
        head = self._queue.pop()
        if head is None:
            return None
        self.now, client = head
        if client == NOBODY:
            if self.now >= self._alarm:
                self._alarm = math.inf
            return Event(self.now, NOBODY, self.version, False)
        self._busy -= 1
        base = self._bases[client]
        if self._rounds and self.version not in (base, ~base):
            self._late -= 1
        if base < 0:
            self._note_end(client, delivered=False)
            self._idle.add(client)
            return Event(self.now, client, ~base, False)
        self._claimed.discard(client)
        if base == self.version:
            self._resting.append(client)
        else:
            self._idle.add(client)
        return Event(self.now, client, base, True)

    def answer(self, event: Event, *, refused: bool) -> None:
        """Note what became of the update that the last event delivered.

        Parameters
        ----------
        event : Event
            The last event.
        refused : bool
            Whether the update was refused, but for its staleness: the client has not delivered,
            and rests all the same, as another task from this version would end like this one.
            In rounds another client gets its place.
        """
        self._note_end(event.client, delivered=not refused)
        self._refused += refused and event.base_version == self.version

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
        for due, client in self._queue.ahead():
            if len(taken) == count or due > until:
                break
            if client != NOBODY and self._bases[client] >= 0 and client not in self._claimed:
                taken.append((client, self._bases[client]))
        self._claimed.update(client for client, _ in taken)
        return taken

    def advance(self, version: int) -> None:
        """Hand out `version` from now on; clients that rested may work again."""
        self.version = version
        self._refused = 0
        if self._rounds:
            self._late = self._busy
        if self._resting:
            self._idle.extend(self._resting)
            self._resting = []

    def wake(self, at: float) -> None:
        """Ask for an event at the time `at`."""
        self._queue.push(at, NOBODY)

    def _most(self) -> int:
        if not self._rounds:
            return self._in_flight
        # Whoever has delivered keeps their place, and rests; late and refused ones take none.
        return self._in_flight + self._late + self._refused - len(self._resting)

    def _note_end(self, client: int, *, delivered: bool) -> None:
        if self._selector is not None:
            self._selector.ended(client, self.now, delivered=delivered)

    def _make_queue(self) -> Queue:
        return EventQueue(_PER_BUCKET * self._fleet.median_task / self._in_flight)

    def _deal(self) -> bool:
        """Draw the next few clients to begin, with all that is random about their tasks."""
        if self._selector is not None:
            return self._search()
        count = 1 + len(self._idle) // _HANDS
        if count >= _MANY:
            return self._deal_many(count)
        clients = self._idle.draw(count)
        self._take(clients)
        return bool(clients)

    def _deal_many(self, count: int) -> bool:
        clients = self._idle.draw_many(count)
        # Turning offline clients away one by one costs more.
        ready = self._fleet.ready(clients, self.now)
        self._put_back(clients, ready)
        clients = clients[ready <= self.now]
        if not len(clients):
            return self._search()
        self._take_many(clients)
        return True

    def _put_back(self, clients: Clients, ready: Times) -> None:
        """Put those back that cannot begin now, but will be able to."""
        self._idle.add_many(clients[(ready > self.now) & (ready < math.inf)])

    def _take_many(self, clients: Clients) -> None:
        self._take(clients.tolist())

    def _take(self, clients: list[int]) -> None:
        numbers = [self._num_tasks[client] for client in clients]
        for client, number in zip(clients, numbers, strict=True):
            self._num_tasks[client] = number + 1
        self._hand = self._fleet.tasks(clients, numbers)

    def _turn_away(self, client: int) -> None:
        """Put a client back that cannot begin."""
        self._num_tasks[client] -= 1
        self._idle.add(client)

    def _search(self) -> bool:
        """Deal a client that can begin, whoever that is, or arrange to be woken."""
        while self._hand:
            self._turn_away(self._hand.pop()[0])
        idle = self._idle.all()
        ready = self._fleet.ready(idle, self.now)
        online = np.flatnonzero(ready <= self.now).tolist()
        if online and self._selector is not None:
            client = self._selector.choose((idle[place] for place in online), self.now)
            self._idle.remove(client)
            self._take([client])
            return True
        if online:
            self._take([self._idle.draw_from(online)])
            return True
        self._set_alarm(float(ready.min(initial=math.inf)))
        return False

    def _set_alarm(self, first: float) -> None:
        """Ask to be woken at the time `first`, or sooner."""
        if first < self._alarm:
            self._alarm = first
            self.wake(first)
