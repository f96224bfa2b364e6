"""The scheduler for large fleets: the next few hundred events worked out at once, in arrays.

As long as every place that falls free goes to the next client of the hand, and until the first
of the tasks so begun ends, nothing that a caller does in between can change which events come
next. Such a window of events is worked out in one go and handed out one by one; what happened in
it is put on the books when it closes. Whatever is out of the ordinary closes the window and is
left to `Scheduler`, so both yield the same events, wherever windows begin and end.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import repeat
from typing import NamedTuple

import numpy as np

from fl_sim.simulation.array_queue import ArrayQueue
from fl_sim.simulation.events import Choice, Event, TaskTimes
from fl_sim.simulation.fleet import Clients, Flags, Fleet, TaskDraw, Times
from fl_sim.simulation.intermittent import IntermittentFleet
from fl_sim.simulation.scheduler import TRIES, Scheduler
from fl_sim.simulation.waiting import WaitingScheduler

# With fewer tasks under way, or fewer idle clients to draw a hand from, windows are shorter than
# the 70 events or so from which on they are worth the calls of numpy.
_MANY, _MANY_IDLE = 2048, 10_000
# Clients become idle by turns: when their task ends, by an advance before the next task begins,
# when they are turned away then, by an advance after it.
_TURNS = 4
_NEVER = np.iinfo(np.int64).max


def scheduler_for(
    fleet: TaskTimes,
    in_flight: int,
    seed: int = 0,
    *,
    rounds: bool = False,
    work: Callable[[int, float], float] | None = None,
    selector: Choice | None = None,
) -> Scheduler:
    """Return the scheduler that is fast for such a fleet and these parameters of `Scheduler`."""
    plain = not rounds and work is None and selector is None
    large = in_flight >= _MANY and len(fleet) - in_flight >= _MANY_IDLE
    if isinstance(fleet, IntermittentFleet):
        return WaitingScheduler(fleet, in_flight, seed, rounds=rounds, work=work, selector=selector)
    if plain and large and isinstance(fleet, Fleet):
        return WindowedScheduler(fleet, in_flight, seed)
    return Scheduler(fleet, in_flight, seed, rounds=rounds, work=work, selector=selector)


class _Drawn:
    """Clients about to begin, the last first, and what is random about their tasks."""

    def __init__(self, clients: Clients, draws: Times) -> None:
        self._clients, self._draws = clients, draws
        self._left = len(clients)

    def __len__(self) -> int:
        return self._left

    def pop(self) -> TaskDraw:
        """Take the next."""
        self._left -= 1
        compute, *rest = self._draws[:, self._left].tolist()
        return (self._clients.item(self._left), compute, *rest)

    def peek(self) -> tuple[Clients, Times]:
        """Return the clients and their draws, the next first."""
        return self._clients[: self._left][::-1], self._draws[:, : self._left][:, ::-1]

    def drop(self, count: int) -> None:
        """Take the next `count`."""
        self._left -= count


class _Window(NamedTuple):
    """A stretch of events, and the tasks begun after each of them.

    Attributes
    ----------
    hand : _Drawn
        Where the tasks begun come from.
    dues, ended, bases : ndarray, shape (n,)
        When tasks end, whose, and the version each began from, ~version if it does not deliver.
    begun, ends, delivers : ndarray, shape (n,)
        Who begins after each, when that task ends, and if it delivers.
    places : ndarray, shape (n,)
        Where in the hand they are.
    turned_away, turned_at : ndarray
        Who is offline when it is its turn, and after which of the events that is; ascending.
    """

    hand: _Drawn
    dues: Times
    ended: Clients
    bases: Clients
    begun: Clients
    ends: Times
    delivers: Flags
    places: Clients
    turned_away: Clients
    turned_at: Clients


class WindowedScheduler(Scheduler):
    """A `Scheduler` of full tasks for uniformly drawn clients, without rounds.

    Parameters
    ----------
    fleet : Fleet
        Durations, failures and availability.
    in_flight : int
        Tasks under way at a time.
    seed : int (default: 0)
        Seed of the choice among idle clients.
    """

    def __init__(self, fleet: Fleet, in_flight: int, seed: int = 0) -> None:
        super().__init__(fleet, in_flight, seed)
        self._devices = fleet
        self._window: _Window
        # The events of the window, and whether the task begun after each of them will deliver;
        # how many events were handed out, after how many of them a task was begun.
        self._events: list[Event] = []
        self._begun: list[bool] = []
        self._place = self._filled = self._last = 0
        # Versions: events and tasks begun before each came, and its number.
        self._advances: list[tuple[int, int, int]] = []

    @property
    def busy(self) -> int:
        """Number of tasks under way."""
        return self._busy + self._filled - self._place

    def fill(self) -> int:
        """Hand the current version to idle clients until `in_flight` tasks are under way."""
        filled = self._filled
        if filled < self._place:
            self._filled = filled + 1
            return self._begun[filled]
        self._close()
        begun = super().fill()
        self._open()
        return begun

    def next(self) -> Event | None:
        """Advance to the next event; None when nothing will ever happen again."""
        place = self._place
        if place == self._filled and (place < self._last or self._reopen()):
            event = self._events[self._place]
            self._place += 1
            self.now = event[0]
            return event
        self._close()
        return super().next()

    def claim(self, count: int, until: float) -> list[tuple[int, int]]:
        """Take the next tasks to train; see `Scheduler`."""
        taken: list[tuple[int, int]] = []
        for due, client, base, delivers in self._events[self._place :]:
            if len(taken) == count or due > until:
                break
            if delivers and client not in self._claimed:
                taken.append((client, base))
        else:
            # The next tasks lie behind the window.
            self._close()
            return super().claim(count, until)
        self._claimed.update(client for client, _ in taken)
        return taken

    def advance(self, version: int) -> None:
        """Hand out `version` from now on; clients that rested may work again."""
        if not self._events:
            super().advance(version)
            return
        self._advances.append((self._place, self._filled, version))
        self.version = version

    def wake(self, at: float) -> None:
        """Ask for an event at the time `at`."""
        self._close()
        super().wake(at)

    def _make_queue(self) -> ArrayQueue:
        self._array_queue = ArrayQueue()
        return self._array_queue

    def _take_many(self, clients: Clients) -> None:
        numbers = _as_numpy(self._num_tasks)
        self._hand = _Drawn(clients, self._devices.draw(clients, numbers[clients]))
        numbers[clients] += 1

    def _reopen(self) -> bool:
        self._close()
        self._open()
        return bool(self._events)

    def _open(self) -> None:
        """Work out the events until a task begun meanwhile ends, or something unusual happens."""
        hand = self._hand
        if not hand or not isinstance(hand, _Drawn) or self._busy < self._in_flight:
            return
        window = self._look_ahead(hand)
        count = len(window.dues)
        if not count:
            return
        self._window = window
        self._begun = window.delivers.tolist()
        bases = window.bases
        fields = (window.dues, window.ended, np.where(bases < 0, ~bases, bases), bases >= 0)
        rows = zip(*(field.tolist() for field in fields), strict=True)
        # As Event(*row), at a third of the time.
        self._events = list(map(tuple.__new__, repeat(Event), rows))
        self._last = count
        self._advances = [(0, 0, self.version)]

    def _look_ahead(self, hand: _Drawn) -> _Window:
        fleet = self._devices
        dues, ended = self._array_queue.peek()
        clients, draws = hand.peek()
        begins = np.ones(len(clients), bool)
        while True:
            # When it is one's turn depends on how many before one begin. The first is right at
            # once, and each round at least one more.
            turns = np.cumsum(begins) - begins
            offline, dead = fleet.absent(draws, dues[np.minimum(turns, len(dues) - 1)])
            before, begins = begins, ~(offline | dead)
            if (begins == before).all():
                break
        places = np.flatnonzero(begins)[: len(dues)]
        count = len(places)
        ends, delivers = fleet.begin_many(draws[:, places], dues[:count])
        turned_at = turns[offline]
        usual = ended[:count] >= 0
        usual[1:] &= dues[1:count] < np.minimum.accumulate(ends)[:-1]
        usual &= np.bincount(turned_at, minlength=count)[:count] < min(TRIES, len(self._idle))
        count = count if usual.all() else int(usual.argmin())
        return _Window(
            hand,
            dues[:count],
            ended[:count],
            _as_numpy(self._bases)[ended[:count]],
            clients[places[:count]],
            ends[:count],
            delivers[:count],
            places[:count],
            clients[offline],
            turned_at,
        )

    def _close(self) -> None:
        """Put on the books what happened in the window, and forget the rest of it."""
        if not self._events:
            return
        place, filled = self._place, self._filled
        self._events, self._place, self._filled, self._last = [], 0, 0, 0
        self._busy += filled - place
        window = self._window
        self._array_queue.drop(place)
        self._array_queue.push_many(window.ends[:filled], window.begun[:filled])
        events, begun, versions = np.array(self._advances, np.int64).T
        self._make_idle(place, filled, events, begun, versions)
        advanced = np.searchsorted(begun, np.arange(filled), side="right") - 1
        bases = versions[advanced]
        bases[~window.delivers[:filled]] ^= -1
        _as_numpy(self._bases)[window.begun[:filled]] = bases
        if filled:
            window.hand.drop(int(window.places[filled - 1]) + 1)

    def _make_idle(
        self, place: int, filled: int, events: Clients, begun: Clients, versions: Clients
    ) -> None:
        """Make clients idle in the order in which `Scheduler` does.

        Parameters
        ----------
        place, filled : int
            Events handed out and tasks begun.
        events, begun, versions : ndarray of int64
            For the version of the beginning and every later one, events and tasks begun before it
            came, and its number.
        """
        window = self._window
        num_away = int(np.searchsorted(window.turned_at, filled))
        ended, away = window.ended[:place], window.turned_away[:num_away]
        _as_numpy(self._num_tasks)[away] -= 1
        if self._claimed:
            self._claimed.difference_update(ended.tolist())
        # Who rests waits for the first advance after the event, or for ever.
        frees = np.full(len(events), _NEVER)
        frees[:-1] = (events[1:] - 1) * _TURNS + np.where(begun[1:] == events[1:], 3, 1)
        advanced = np.searchsorted(events, np.arange(place), side="right") - 1
        rests = window.bases[:place] == versions[advanced]
        turns = np.where(rests, frees[advanced], np.arange(place) * _TURNS)
        rested = np.array(self._resting, np.int64)
        clients = np.concatenate([rested, ended, away])
        turns = np.concatenate(
            [np.full(len(rested), frees[0]), turns, window.turned_at[:num_away] * _TURNS + 2]
        )
        order = np.argsort(turns, kind="stable")
        freed = int(np.searchsorted(turns, _NEVER, sorter=order))
        self._idle.add_many(clients[order[:freed]])
        self._resting = clients[order[freed:]].tolist()


def _as_numpy(numbers: array[int]) -> Clients:
    return np.frombuffer(numbers, np.int64)
