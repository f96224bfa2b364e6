"""Runs a SuperNode as a child and starts it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fl_client.supernode.policy import Life, RestartPolicy
from tee_sim.syscalls import PR_SET_PDEATHSIG, Libc

_STOP_PATIENCE = 15.0
_LEAVE_PATIENCE = 20.0
_OUTPUT_PATIENCE = 5.0
_POLL = 0.1


class Keeper:
    """Keeps one SuperNode running.

    Parameters
    ----------
    arguments : sequence of str
        For ``flower-supernode``.
    stop : threading.Event
        Set when it is to end.
    """

    def __init__(self, arguments: Sequence[str], stop: threading.Event) -> None:
        self._arguments = list(arguments)
        self._stop = stop

    def run(self) -> None:
        """Run until `stop` is set.

        Raises
        ------
        NodeRefused
            If the SuperNode cannot run.
        """
        policy = RestartPolicy()
        while not self._stop.is_set():
            began, life = time.monotonic(), Life()
            status = self._live(life)
            if self._stop.is_set():
                return
            if life.node_id is not None and status != 0:
                self._leave(life.node_id)
            pause = policy.pause(life, status, began, time.monotonic())
            print(f"SuperNode ended with status {status}; starting it in {pause:g} s", flush=True)
            self._stop.wait(pause)

    def _live(self, life: Life) -> int:
        node = subprocess.Popen(
            [str(Path(sys.executable).with_name("flower-supernode")), *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            preexec_fn=_end_with(os.getpid()),
        )
        reader = threading.Thread(target=_pass_on, args=(node, life), daemon=True)
        reader.start()
        while node.poll() is None:
            if self._stop.wait(_POLL):
                # The SuperNode says goodbye, so that it may come back at once.
                node.terminate()
                break
        try:
            node.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            node.kill()
        # Its last words say why; a task that outlives it may hold the pipe open.
        reader.join(_OUTPUT_PATIENCE)
        return node.wait()

    def _leave(self, node_id: int) -> None:
        """Say goodbye for a SuperNode that could not; without it, it is refused for a minute."""
        command = [sys.executable, "-P", "-m", "fl_client.supernode.leave", str(node_id)]
        try:
            subprocess.run([*command, *self._arguments], timeout=_LEAVE_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            print("The SuperLink did not take the goodbye in time", flush=True)


def _pass_on(node: subprocess.Popen[str], life: Life) -> None:
    assert node.stdout is not None
    for line in node.stdout:
        life.read(line)
        print(line, end="", flush=True)


def _end_with(parent: int) -> Callable[[], None]:
    libc = Libc()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask
