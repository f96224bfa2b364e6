"""What is done to the processes of a federation, one thing at a time."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from asynclave.chaos.real.federation import JOURNAL, RECORDS, Federation
from asynclave.chaos.real.proxy import Mood
from asynclave.chaos.real.skew import SkewedClock
from asynclave.chaos.real.slow_loris import drip
from asynclave.chaos.real.volumes import Volume
from asynclave.deployment.processes import started_at
from fl_protocol.codes import GatewayUnavailable

_STOPPED_SECONDS = (0.5, 3.0)
_TROUBLE_SECONDS = (1.0, 4.0)
_SHORTEST_STEP, _LONGEST_STEP = 1.0, 3600.0
_LONGEST_TAIL = 4096
_POLL_SECONDS, _ENCLAVE_SECONDS = 0.005, 60.0


@dataclass(frozen=True)
class Struck:
    """A fault that has been inflicted.

    Attributes
    ----------
    kind : str
        Which.
    at : float
        When, in seconds of the monotonic clock.
    client : int or None
        The only client that it struck, if it was one.
    """

    kind: str
    at: float
    client: int | None = None


class Tormentor:
    """Draws faults and inflicts them; whatever was killed is started again at once.

    Every kind strikes once, in an order that is drawn, before any strikes again.

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
            "kill -9 client": self._one(self._kill_client),
            "kill -9 launcher and enclave": self._kill_launcher,
            "SIGSTOP gateway": lambda: self._pause(federation.stack.gateway_pid),
            "SIGSTOP enclave": lambda: self._pause(self._enclave()),
            "SIGSTOP server": lambda: self._pause(federation.server.pid),
            "garbage behind the records": self._spoil_records,
            "garbage behind the journal": self._spoil_journal,
            "clock: gateway": lambda: self._skew(federation.gateway_clock),
            "clock: a client": self._one(lambda n: self._skew(federation.client_clock(n))),
            "slow loris": lambda: drip(federation.stack.address, self._trouble_seconds()),
            **{f"network: {mood}": self._network(mood) for mood in Mood if mood != Mood.CLEAR},
            **self._of_volumes(),
            **self._of_links(),
        }
        self._deck: list[str] = []

    def strike(self) -> Struck:
        """Inflict the next fault; returns when it is over."""
        if not self._deck:
            self._deck = sorted(self._faults)
            self._rng.shuffle(self._deck)
        kind = self._deck.pop()
        at = time.monotonic()
        client = self._faults[kind]()
        return Struck(kind, at, client)

    def _of_volumes(self) -> dict[str, Callable[[], int | None]]:
        volumes = self._federation.equipment.volumes
        if not volumes:
            return {}
        return {
            "disk full: gateway's journal": partial(self._fill, volumes[JOURNAL]),
            "disk full: server's records": partial(self._fill, volumes[RECORDS]),
            "disk full: a client's outbox": self._one(
                lambda number: self._fill(volumes[f"client-{number}"])
            ),
        }

    def _of_links(self) -> dict[str, Callable[[], int | None]]:
        networks = self._federation.equipment.networks
        if not networks:
            return {}
        return {
            "link down: a client": self._one(
                lambda number: self._during(networks[number].cut_off())
            ),
            "link narrow: a client": self._one(
                lambda number: self._during(networks[number].narrow())
            ),
        }

    def _one(self, strike: Callable[[int], None]) -> Callable[[], int]:
        """Return the fault that strikes any one client."""

        def struck() -> int:
            number = self._rng.randrange(len(self._federation.clients))
            strike(number)
            return number

        return struck

    def _fill(self, volume: Volume) -> None:
        with volume.full():
            volume.wait(self._trouble_seconds())

    def _skew(self, clock: SkewedClock) -> None:
        step = math.exp(self._rng.uniform(math.log(_SHORTEST_STEP), math.log(_LONGEST_STEP)))
        self._during(clock.off_by(self._rng.choice((-1.0, 1.0)) * step))

    def _during(self, trouble: AbstractContextManager[None]) -> None:
        with trouble:
            time.sleep(self._trouble_seconds())

    def _trouble_seconds(self) -> float:
        return self._rng.uniform(*_TROUBLE_SECONDS)

    def _kill_gateway(self) -> None:
        os.kill(self._federation.stack.gateway_pid, signal.SIGKILL)
        self._federation.stack.restart_gateway()

    def _kill_enclave(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._enclave(), signal.SIGKILL)

    def _enclave(self) -> int:
        """Return the process id of the enclave, once there is one."""
        end = time.monotonic() + _ENCLAVE_SECONDS
        while True:
            try:
                return self._federation.stack.enclave_pid
            except GatewayUnavailable:
                if time.monotonic() > end:
                    raise
            time.sleep(_POLL_SECONDS)

    def _kill_launcher(self) -> None:
        os.kill(self._federation.stack.launcher_pid, signal.SIGKILL)
        self._federation.stack.restart_launcher()

    def _kill_server(self) -> None:
        self._federation.kill_server()
        self._federation.start_server()

    def _kill_client(self, number: int) -> None:
        self._federation.kill_client(number)
        self._federation.start_client(number)

    def _spoil_records(self) -> None:
        """Kill the server in the middle of a write: what is behind the last line is no record."""
        self._federation.kill_server()
        with self._federation.chain.open("ab") as chain:
            chain.write(self._rng.randbytes(self._rng.randint(1, 200)).replace(b"\n", b" "))
        self._federation.start_server()

    def _spoil_journal(self) -> None:
        """Kill the gateway in the middle of a write: what is behind the last sync is no update."""
        pid = self._federation.stack.gateway_pid
        os.kill(pid, signal.SIGKILL)
        while started_at(pid) is not None:
            time.sleep(_POLL_SECONDS)
        newest = max(self._federation.stack.journal_dir.glob("*.journal"))
        with newest.open("ab") as segment:
            segment.write(self._rng.randbytes(self._rng.randint(1, _LONGEST_TAIL)))
        self._federation.stack.restart_gateway()

    def _pause(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(self._rng.uniform(*_STOPPED_SECONDS))
            finally:
                os.kill(pid, signal.SIGCONT)

    def _network(self, mood: Mood) -> Callable[[], None]:
        return lambda: self._during(self._mood(mood))

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
