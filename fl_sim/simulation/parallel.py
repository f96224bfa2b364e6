"""Calls spread over worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

T = TypeVar("T")
Tell = Callable[..., None]


def in_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], workers: int, tell: Tell
) -> Iterator[T]:
    """Yield the results of calls as they finish, `workers` of them running at a time.

    Parameters
    ----------
    function : callable
        Found by its name in a fresh process. Its last argument is a callable by which it reports
        progress.
    calls : sequence of tuple
        Arguments of each call but the last.
    workers : int
        Processes at a time; each makes one call.
    tell : callable
        Gets what calls report.

    Raises
    ------
    Exception
        What a call raised; the others are stopped.
    RuntimeError
        If a worker died.
    """
    # Spawned, not forked: a fork while torch or a progress bar has threads may hang.
    context = multiprocessing.get_context("spawn")
    left, running = list(reversed(calls)), dict[Connection, BaseProcess]()
    try:
        while left or running:
            while left and len(running) < workers:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, function, left.pop()))
                with _interrupts_held_back():
                    process.start()
                    # Known before an interrupt can come, so that it is ended then.
                    running[ours] = process
                theirs.close()
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                kind, content = _received(pipe)
                if kind == "told":
                    tell(*content)
                elif kind == "failed":
                    raise content
                else:
                    running.pop(pipe).join()
                    yield content
    finally:
        for worker in running.values():
            worker.terminate()
            worker.join()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let processes started meanwhile never see an interrupt: whoever started them ends them."""
    # Started later, it would let interrupts through.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _received(pipe: Connection) -> tuple[str, Any]:
    try:
        kind, content = pipe.recv()
    except EOFError:
        return "failed", RuntimeError("a worker process died; with less memory in use, try again")
    return kind, content


def _work(pipe: Connection, function: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        result = function(*arguments, lambda *told: pipe.send(("told", told)))
    except Exception as error:
        pipe.send(("failed", error))
    else:
        pipe.send(("done", result))


def _end_with_parent() -> None:
    """Wait until the process that began this one is gone, however it ended, and end too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
