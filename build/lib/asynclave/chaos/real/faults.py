"""What is done to the processes of a federation, one thing at a time."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from asynclave.chaos.real.federation import Federation
from asynclave.chaos.real.proxy import Mood

_STOPPED_SECONDS = (0.5, 3.0)
_TROUBLE_SECONDS = (1.0, 4.0)


@dataclass(frozen=True)
class Struck:
    """A fault that has been inflicted.

    Attributes
    ----------
    kind : str
        Which.
    at : float
        When, in Unix seconds.
    client : int or None
        The only client that it struck, if it was one.
    """

    kind: str
    at: float
    client: int | None = None


class Tormentor:
    """Draws faults and inflicts them; whatever was killed is started again at once.

    Parameters
    ----------
    federation : Federation
        The processes.
    rng : random.Random
        Draws.
    """

    def __init__(self, federation: Federation, rng: random.Random) -> None:
        self._federation, self._rng = federation, rng
        self._faults: dict[str, Callable[[], int | None]] = {
            "kill -9 gateway": self._kill_gateway,
            "kill -9 enclave": self._kill_enclave,
            "kill -9 server": self._kill_server,
            "kill -9 client": self._kill_client,
            "kill -9 launcher and enclave": self._kill_launcher,
            "SIGSTOP gateway": lambda: self._pause(federation.stack.gateway_pid),
            "SIGSTOP enclave": lambda: self._pause(federation.stack.enclave_pid),
            "SIGSTOP server": lambda: self._pause(federation.server.pid),
            "garbage behind the records": self._spoil_records,
            **{f"network: {mood}": self._network(mood) for mood in Mood if mood != Mood.CLEAR},
        }

    def strike(self) -> Struck:
        """Inflict the next fault; returns when it is over."""
        kind = self._rng.choice(sorted(self._faults))
        at = time.time()
        client = self._faults[kind]()
        return Struck(kind, at, client)

    def _kill_gateway(self) -> None:
        os.kill(self._federation.stack.gateway_pid, signal.SIGKILL)
        self._federation.stack.restart_gateway()

    def _kill_enclave(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._federation.stack.enclave_pid, signal.SIGKILL)

    def _kill_launcher(self) -> None:
        os.kill(self._federation.stack.launcher_pid, signal.SIGKILL)
        self._federation.stack.restart_launcher()

    def _kill_server(self) -> None:
        self._federation.kill_server()
        self._federation.start_server()

    def _kill_client(self) -> int:
        number = self._rng.randrange(len(self._federation.clients))
        self._federation.kill_client(number)
        self._federation.start_client(number)
        return number

    def _spoil_records(self) -> None:
        """Kill the server in the middle of a write: what is behind the last line is no record."""
        self._federation.kill_server()
        with self._federation.chain.open("ab") as chain:
            chain.write(self._rng.randbytes(self._rng.randint(1, 200)).replace(b"\n", b" "))
        self._federation.start_server()

    def _pause(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(self._rng.uniform(*_STOPPED_SECONDS))
            finally:
                os.kill(pid, signal.SIGCONT)

    def _network(self, mood: Mood) -> Callable[[], None]:
        def trouble() -> None:
            with self._mood(mood):
                time.sleep(self._rng.uniform(*_TROUBLE_SECONDS))

        return trouble

    @contextmanager
    def _mood(self, mood: Mood) -> Iterator[None]:
        self._federation.proxy.mood = mood
        try:
            yield
        finally:
            self._federation.proxy.mood = Mood.CLEAR
            if mood is Mood.BLACK_HOLE:
                # Nobody would notice before a time-out of minutes.
                self._federation.proxy.hang_up()
