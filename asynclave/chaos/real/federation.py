"""The processes of a chaos run: stack, server, clients, and the proxy between them."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from asynclave.chaos.real.equipment import Equipment
from asynclave.chaos.real.gateway import CLOCK
from asynclave.chaos.real.proxy import FaultProxy
from asynclave.chaos.real.settings import ProcessConfig, stack_settings
from asynclave.chaos.real.skew import SkewedClock
from asynclave.deployment.processes import Program
from fl_client.config import ClientConfig
from fl_server.intake.records import CHAIN
from fl_server.stack import LocalStack

# What is kept on a volume of its own, beside what each client keeps.
JOURNAL, RECORDS = "journal", "records"


@dataclass(frozen=True)
class Acknowledgement:
    """What a client was told: which update, and when in seconds of the monotonic clock."""

    client: int
    update: str
    time: float


class Federation:
    """Starts everything, and everything again.

    Parameters
    ----------
    folder : Path
        Receives all state and all logs.
    num_clients : int
        Client processes.
    num_params : int
        Size of the model.
    seed : int
        Of what the clients draw.

    Attributes
    ----------
    equipment : Equipment
        Their volumes and networks.
    """

    def __init__(self, folder: Path, num_clients: int, num_params: int, seed: int = 0) -> None:
        self.folder, self._num_clients, self._num_params = folder, num_clients, num_params
        self._rng = random.Random(seed)
        self.equipment = Equipment()
        self.stack: LocalStack
        self.clients: list[Program] = []
        self.server: Program
        self.proxy: FaultProxy
        # A socket's path may have 107 bytes at most.
        self._sockets = tempfile.TemporaryDirectory(prefix="asynclave-")
        self._server_bundle: Path
        self._client_bundles: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill everything that still runs."""
        for number in range(len(self.clients)):
            self.kill_client(number)
        if hasattr(self, "server"):
            self.kill_server()
        if hasattr(self, "stack"):
            self.stack.stop()
        if hasattr(self, "proxy"):
            self.proxy.stop()
        self.equipment.close()
        self._sockets.cleanup()

    @property
    def run_folder(self) -> Path:
        """The run's folder, in which the server keeps it."""
        return self.folder / "run"

    @property
    def chain(self) -> Path:
        """The enclave's records."""
        return self.run_folder / CHAIN

    @property
    def server_bundle(self) -> Path:
        """Path of the server's bundle."""
        return self._server_bundle

    @property
    def client_bundles(self) -> list[Path]:
        """Paths of the clients' bundles."""
        return list(self._client_bundles)

    @property
    def gateway_clock(self) -> SkewedClock:
        """The gateway's clock."""
        return SkewedClock(self.stack.state_dir / CLOCK)

    def client_clock(self, number: int) -> SkewedClock:
        """Return a client's clock."""
        return SkewedClock(self._clock(number))

    def acknowledgements(self) -> Iterator[Acknowledgement]:
        """Yield what the clients have written down."""
        for client in range(self._num_clients):
            log = self._log(client)
            text = log.read_text(encoding="utf-8") if log.exists() else ""
            for line in text[: text.rfind("\n") + 1].splitlines():
                entry = json.loads(line)
                yield Acknowledgement(client, entry["update"], entry["time"])

    def check(self) -> None:
        """Raise CHILD_DIED if the server or a client has ended by itself."""
        for program in (self.server, *self.clients):
            program.check()

    def start_server(self) -> None:
        """Start the server process."""
        config = self._config(self._server_bundle, self.run_folder)
        self.server = self._program("server", "server", config.save(self.folder / "server.json"))

    def kill_server(self) -> None:
        """Kill it without warning."""
        _kill(self.server)

    def start_client(self, number: int) -> None:
        """Start a client process."""
        seed = self._rng.randrange(2**32)
        config = replace(
            self._config(self._client_bundles[number], self._log(number), seed),
            clock=str(self._clock(number)),
        )
        path = config.save(self.folder / f"client-{number}.json")
        self.clients[number : number + 1] = [
            self._program(f"client-{number}", "client", path, number)
        ]

    def kill_client(self, number: int) -> None:
        """Kill it without warning."""
        _kill(self.clients[number])

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stack = LocalStack(
            self.folder / "stack", stack_settings(), gateway_module="asynclave.chaos.real.gateway"
        )
        nodes = self.stack.state_dir / "nodes"
        self.equipment.mount(
            {
                JOURNAL: self.stack.journal_dir,
                RECORDS: self.run_folder,
                **{f"client-{n}": nodes / f"client-{n}" for n in range(self._num_clients)},
            }
        )
        self.stack.start()
        self.proxy = FaultProxy(int(self.stack.address.rpartition(":")[2]))
        self.equipment.connect(self.proxy, self._num_clients)
        self.proxy.start()
        self._server_bundle = self.stack.server_config()
        for number in range(self._num_clients):
            bundle = self.stack.client_config(f"client-{number}")
            address = f"127.0.0.1:{self.proxy.port}"
            replace(ClientConfig.load(bundle), gateway=address).save(bundle)
            self._client_bundles.append(bundle)
        self.start_server()
        for number in range(self._num_clients):
            self.start_client(number)

    def _config(self, bundle: Path, folder: Path, seed: int = 0) -> ProcessConfig:
        socket = str(Path(self._sockets.name) / "server")
        return ProcessConfig(str(bundle), str(folder), socket, self._num_params, seed)

    def _program(self, name: str, module: str, config: Path, client: int | None = None) -> Program:
        root = str(Path(__file__).resolve().parents[3])
        command = [sys.executable, "-m", f"asynclave.chaos.real.{module}", str(config)]
        environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        if client is not None:
            command = self.equipment.command(client, command)
        return Program(name, command, environment, self.folder / f"{name}.log")

    def _clock(self, client: int) -> Path:
        return self.folder / f"client-{client}.clock"

    def _log(self, client: int) -> Path:
        return self.folder / f"acknowledged-{client}.jsonl"


def _kill(program: Program) -> None:
    if program.alive():
        os.kill(program.pid, signal.SIGKILL)
    program.reap(10.0)
