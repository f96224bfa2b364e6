"""Pulling replies on real time without waiting for one that never becomes whole.

Flower's SuperLink announces a reply when its node begins to send it, and the grid then waits for
the rest: as long as a slow node needs, and three minutes for a node that was lost on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from flwr.app import Message

GRACE_SECONDS = 0.5
"""How long the run waits for a reply that was just announced before it goes on without it."""
MOST_AT_A_TIME = 32
"""Replies that are fetched at the same time; others wait their turn."""

Fetch = Callable[[], Iterable[Message]]
Announce = Callable[[Sequence[str]], Iterable[tuple[str, Fetch]]]


class BackgroundPulls:
    """Fetches each announced reply on a thread of its own.

    Parameters
    ----------
    announce : callable
        Returns the replies to these messages that have begun to arrive and were not announced
        before: the id of the message that each answers, and how to fetch it.
    grace : float
        Seconds to wait when something new was announced.
    """

    def __init__(self, announce: Announce, grace: float = GRACE_SECONDS) -> None:
        self._announce, self._grace = announce, grace
        self._under_way: dict[str, Future[list[Message]]] = {}
        self._turns = threading.Semaphore(MOST_AT_A_TIME)

    def take(self, message_ids: Sequence[str]) -> list[Message]:
        """Return the replies that are whole."""
        asked = [message_id for message_id in message_ids if message_id not in self._under_way]
        new = {message_id: self._begin(fetch) for message_id, fetch in self._announced(asked)}
        self._under_way.update(new)
        wait(new.values(), self._grace, FIRST_COMPLETED)
        done = [message_id for message_id, reply in self._under_way.items() if reply.done()]
        whole = [self._under_way.pop(message_id) for message_id in done]
        return [reply for future in whole for reply in future.result()]

    def _announced(self, message_ids: Sequence[str]) -> Iterable[tuple[str, Fetch]]:
        return self._announce(message_ids) if message_ids else ()

    def _begin(self, fetch: Fetch) -> Future[list[Message]]:
        reply: Future[list[Message]] = Future()

        def work() -> None:
            try:
                with self._turns:
                    reply.set_result(list(fetch()))
            except BaseException as error:
                reply.set_exception(error)

        # A daemon: a run that ends does not wait for a reply that is not whole.
        threading.Thread(target=work, name="pull", daemon=True).start()
        return reply
