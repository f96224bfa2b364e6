"""When a process of the trust path ends: told by a signal, or orphaned."""

from __future__ import annotations

import asyncio
import os
import signal


def stop_event(parent_pid: int | None) -> asyncio.Event:
    """Return an event that SIGTERM, SIGINT or the end of another process sets.

    Parameters
    ----------
    parent_pid : int, optional
        The process to watch; none if unset.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if parent_pid is not None:
        try:
            # Unlike a parent-death signal this does not fire when only a thread of it ends.
            loop.add_reader(os.pidfd_open(parent_pid), stopping.set)
        except ProcessLookupError:
            stopping.set()
    return stopping
