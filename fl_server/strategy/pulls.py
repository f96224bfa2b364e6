"""Pulling replies on real time without waiting for one that never becomes whole.

Flower's SuperLink announces a reply when its node begins to send it, and the grid then waits for
the rest: as long as a slow node needs, and three minutes for a node that was lost on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait

from flwr.app import Message

GRACE_SECONDS = 1.0
"""How long the run waits for a pull before it goes on without it."""
MOST_SET_ASIDE = 8
"""Pulls that may hang at a time; with so many, no other is begun."""


class BackgroundPulls:
    """Pulls on threads of their own; what hangs is set aside and taken when it is there.

    A reply that is announced is handed out once, so a later pull of the same ids does not get what
    an earlier one waits for. What was announced together is waited for together.

    Parameters
    ----------
    pull : callable
        ``Grid.pull_messages``; called from several threads at a time.
    grace : float
        Seconds to wait for one pull.
    """

    def __init__(
        self,
        pull: Callable[[Iterable[str]], Iterable[Message]],
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._pull, self._grace = pull, grace
        self._aside: list[Future[list[Message]]] = []

    def take(self, message_ids: Sequence[str]) -> list[Message]:
        """Return the replies that are whole; waits for others no longer than `grace`."""
        if message_ids and len(self._aside) < MOST_SET_ASIDE:
            self._aside.append(self._begin(list(message_ids)))
            wait(self._aside[-1:], self._grace)
        done = [future for future in self._aside if future.done()]
        self._aside = [future for future in self._aside if future not in done]
        return [reply for future in done for reply in future.result()]

    def _begin(self, message_ids: list[str]) -> Future[list[Message]]:
        future: Future[list[Message]] = Future()

        def work() -> None:
            try:
                future.set_result(list(self._pull(message_ids)))
            except BaseException as error:
                future.set_exception(error)

        # A daemon: a run that ends does not wait for a reply that is not whole.
        threading.Thread(target=work, name="pull", daemon=True).start()
        return future
