"""Work that goes on to its end when the caller it is done for hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fl_protocol.codes import Code, GatewayUnavailable

_Result = TypeVar("_Result")


class Undisturbed:
    """At most so many pieces of work under way.

    Parameters
    ----------
    limit : int
        The bodies of callers that hung up stay in memory as long, so their number is bounded.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the work's result; raises GatewayUnavailable ``OVERLOADED`` when too much is."""
        if len(self._tasks) >= self._limit:
            work.close()
            raise GatewayUnavailable(Code.OVERLOADED)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def cancel(self) -> None:
        """Cancel what is under way and return when it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
