"""Processes of a world as threads of which one runs at a time, on virtual time.

Who runs next follows from virtual time alone, so the same seed gives the same interleaving.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from itertools import count

START = 1_800_000_000.0


class Ended(BaseException):
    """The world is over; no Exception, so that nothing of a process goes on."""


class _Actor:
    def __init__(self, body: Callable[[], None]) -> None:
        self.turn = threading.Semaphore(0)
        self.body = body
        self.thread: threading.Thread


class Actors:
    """Runs actors in the order in which they wake up.

    Attributes
    ----------
    elapsed : float
        Virtual seconds that have passed.
    """

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._asleep: list[tuple[float, int, _Actor]] = []
        self._order = count()
        self._running: _Actor
        self._yielded = threading.Semaphore(0)
        self._over = False
        self._error: BaseException | None = None

    def add(self, body: Callable[[], None]) -> None:
        """Add an actor, which begins when `run` is called."""
        actor = _Actor(body)
        actor.thread = threading.Thread(target=self._live, args=(actor,), daemon=True)
        self._wake_at(0.0, actor)
        actor.thread.start()

    def run(self) -> None:
        """Run until `end` is called or an actor raises, which is raised here, too."""
        while self._asleep:
            when, _, actor = heapq.heappop(self._asleep)
            if not self._over:
                self.elapsed = max(self.elapsed, when)
            self._running = actor
            actor.turn.release()
            self._yielded.acquire()
        if self._error is not None:
            raise self._error

    def sleep(self, seconds: float) -> None:
        """Let others run for so many virtual seconds."""
        if self._over:
            raise Ended
        actor = self._running
        self._wake_at(self.elapsed + max(0.0, seconds), actor)
        self._yielded.release()
        actor.turn.acquire()
        if self._over:
            raise Ended

    def end(self) -> None:
        """Have every actor end the next time that it would sleep."""
        self._over = True

    def _wake_at(self, when: float, actor: _Actor) -> None:
        heapq.heappush(self._asleep, (when, next(self._order), actor))

    def _live(self, actor: _Actor) -> None:
        actor.turn.acquire()
        try:
            if not self._over:
                actor.body()
        except Ended:
            pass
        except BaseException as error:
            self._error = self._error or error
            self._over = True
        self._yielded.release()


class ProcessClock:
    """The wall clock of one process, as `fl_protocol.ports.Clock`.

    Attributes
    ----------
    times_set : int
        How often it was set.
    """

    def __init__(self, actors: Actors) -> None:
        self._actors = actors
        self._offset, self.times_set = 0.0, 0

    def set(self, offset: float) -> None:
        """Have it be off by so many seconds."""
        self._offset, self.times_set = offset, self.times_set + 1

    def now(self) -> float:
        """Return the time that this process believes in, in seconds since 1970."""
        return START + self._actors.elapsed + self._offset

    def sleep(self, seconds: float) -> None:
        """Wait for a duration in seconds."""
        self._actors.sleep(seconds)
