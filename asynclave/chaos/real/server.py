"""The server process: the confidential intake, kept in a folder, on a Unix socket.

It stands where Flower's ServerApp stands, whose task of some seconds would leave nothing to kill.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from asynclave.chaos.real.service import started
from asynclave.chaos.real.settings import RUN, ProcessConfig, recipe
from fl_protocol.codes import AsynclaveError
from fl_protocol.flower import RECEIPT
from fl_server.intake.sealed import SealedIntake


class Server:
    """Answers clients with the newest model, and takes their receipts."""

    def __init__(self, config: ProcessConfig) -> None:
        self._intake = SealedIntake(
            config.bundle, recipe(), state_folder=Path(config.folder), watch_interval=0.3
        )
        self._intake.open(RUN, config.layout, np.zeros(config.num_params, np.float32))
        self._turn = threading.Lock()

    def answer(self, request: tuple[Any, ...]) -> Any:
        """Answer ``("task",)`` or ``("receipt", node, base version, entries)``."""
        with self._turn:
            if request[0] == "task":
                return self._intake.version, self._intake.params
            _, node, base_version, entries = request
            reply = RecordDict({RECEIPT: ConfigRecord(entries)})
            try:
                outcome = self._intake.offer(reply, node, base_version, self._intake.params, 0.0)
            except AsynclaveError as error:
                return error.code
            while self._intake.take_merge():
                pass
            return outcome.code


def _serve(server: Server, connection: Connection) -> None:
    with contextlib.suppress(EOFError, OSError), connection:
        while True:
            connection.send(server.answer(connection.recv()))


def main(path: str) -> None:
    """Serve until killed."""
    config = ProcessConfig.load(path)
    server = started(lambda: Server(config))
    Path(config.socket).unlink(missing_ok=True)
    with Listener(config.socket, "AF_UNIX", backlog=64) as listener:
        while True:
            connection = listener.accept()
            threading.Thread(target=_serve, args=(server, connection), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
