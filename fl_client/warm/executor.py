"""An executor that forks each task from a fork server with its imports done.

Python's own fork server (`multiprocessing`) is a process with one thread that only imports what it
is told to and forks: it never sees a message, a token or a model, so a fresh child begins as clean
as a fresh process does. The token of a task reaches its child through a pipe, where Flower passes
it as an argument that `ps` shows.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import sys
import time
from collections.abc import Callable, Sequence
from logging import WARNING
from multiprocessing.context import ForkServerProcess

from fl_client.warm.flwr_compat import (
    ExecutionSpec,
    LaunchResult,
    SubprocessExecutor,
    TaskType,
    log,
    run_client_app,
)
from fl_client.warm.preload import require_module

_STOP_PATIENCE = 3.0
_RESTART_PAUSE = 0.5
_CLIENT = "fl_client.warm.flwr_compat"


class ForkExecutor:
    """Runs every task of a ClientApp in a child of its own, forked from a warm process.

    Tasks of other kinds, and those that install their app's dependencies first, go to Flower's own
    executor: a preloaded module would hide the version that was installed.

    Parameters
    ----------
    preload : sequence of str
        Modules that are imported once, beside those of Flower.
    run : callable
        Runs a task in the child and ends with the child's exit status.

    Raises
    ------
    ConfigInvalid
        If there is no such module.
    """

    def __init__(
        self,
        preload: Sequence[str] = (),
        run: Callable[[ExecutionSpec], None] = run_client_app,
    ) -> None:
        for name in preload:
            require_module(name)
        self._run = run
        self._cold = SubprocessExecutor()
        self._tasks: dict[ForkServerProcess, int] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([_CLIENT, *preload])
        # Imports while the SuperNode starts; a task that comes too early waits for it.
        multiprocessing.forkserver.ensure_running()

    def get_eligible_capacity(
        self,
        supported_task_types: set[TaskType],
        *,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> tuple[set[TaskType], set[str]]:
        """Take every task, as Flower's own executor does."""
        return self._cold.get_eligible_capacity(
            supported_task_types,
            insecure=insecure,
            root_certificates_path=root_certificates_path,
        )

    def wait_for_capacity(
        self,
        task_type: TaskType | None = None,
        *,
        fab_hash: str | None = None,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> None:
        """Return at once: there is no limit."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Fork a child for a task."""
        if spec.task_type != TaskType.CLIENT_APP or spec.runtime_dependency_install:
            return self._cold.launch(spec)
        try:
            task = self._forked(spec)
        except (OSError, EOFError) as error:
            return LaunchResult.failed(f"no child could be forked: {error!r}")
        self._tasks[task] = spec.task_id
        return LaunchResult.accepted()

    def _forked(self, spec: ExecutionSpec) -> ForkServerProcess:
        task = self._context.Process(target=_begin, args=(self._run, spec))
        try:
            task.start()
        except (OSError, EOFError):
            # The fork server has just died; the next start begins with a new one.
            time.sleep(_RESTART_PAUSE)
            task = self._context.Process(target=_begin, args=(self._run, spec))
            task.start()
        return task

    def reconcile(self) -> None:
        """Collect children that have ended; called between polls."""
        for task in [task for task in self._tasks if task.exitcode is not None]:
            task_id = self._tasks.pop(task)
            if task.exitcode:
                log(WARNING, "Task %d ended with status %d", task_id, task.exitcode)
            task.close()

    def close(self) -> None:
        """End what still runs: each task is asked, then killed."""
        for task in self._tasks:
            task.terminate()
        deadline = time.monotonic() + _STOP_PATIENCE
        for task in self._tasks:
            task.join(max(0.0, deadline - time.monotonic()))
            task.kill()
        self._tasks.clear()

    @property
    def running(self) -> int:
        """Children whose end was not noticed yet."""
        return len(self._tasks)


def _begin(run: Callable[[ExecutionSpec], None], spec: ExecutionSpec) -> None:
    # A fork inherits numpy's global generator; a fresh process would have seeded its own.
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    run(spec)
