"""A client process: asks for a task, trains nothing in particular, and delivers it sealed.

Every acknowledgement is written to a log and synced before anything else happens; the log is what
the server's records are held against in the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import numpy as np

from asynclave.chaos.real.service import started
from asynclave.chaos.real.settings import RUN, TASK, ProcessConfig
from asynclave.chaos.real.skew import SkewedClock
from fl_client.config import ClientConfig
from fl_client.updates import LocalUpdate, Uploaded
from fl_client.uploader import SealedUploader
from fl_protocol.codes import AsynclaveError
from fl_protocol.flower import receipt_entries
from fl_protocol.receipts import ACCEPTED
from strategies.update import digest_of

_RETRY_SECONDS = 0.1


class Log:
    """What was acknowledged and when, one JSON object per line.

    The monotonic clock is the same for all processes, and nobody sets it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def acknowledged(self, uploaded: Uploaded) -> None:
        """Note an acknowledgement."""
        entry = {"time": time.monotonic(), "update": uploaded.receipt.update_id}
        self._file.write(json.dumps(entry).encode() + b"\n")
        os.fsync(self._file.fileno())


def main(path: str) -> None:
    """Work until killed."""
    config = ProcessConfig.load(path)
    bundle, clock = ClientConfig.load(config.bundle), SkewedClock(Path(config.clock))
    uploader = started(lambda: SealedUploader(bundle, clock))
    log, rng = Log(Path(config.folder)), np.random.default_rng(config.seed)
    while True:
        with contextlib.suppress(OSError, EOFError), Client(config.socket, "AF_UNIX") as server:
            while True:
                _work(config, uploader, log, server, rng)
                time.sleep(rng.exponential(config.pause))
        time.sleep(_RETRY_SECONDS)


def _work(
    config: ProcessConfig,
    uploader: SealedUploader,
    log: Log,
    server: Connection,
    rng: np.random.Generator,
) -> None:
    server.send(("task",))
    version, params = server.recv()
    try:
        uploaded = _delivered(config, uploader, version, params, rng)
    except AsynclaveError:
        return
    if uploaded.receipt.outcome == ACCEPTED:
        log.acknowledged(uploaded)
    entries = receipt_entries(uploaded.receipt.outcome, uploaded.signed)
    server.send(("receipt", uploaded.receipt.client_id, version, entries))
    server.recv()


def _delivered(
    config: ProcessConfig,
    uploader: SealedUploader,
    version: int,
    params: Any,
    rng: np.random.Generator,
) -> Uploaded:
    digest, layout = digest_of(params), config.layout
    settled = uploader.settle(RUN, digest)
    if settled is not None:
        return settled.uploaded
    uploader.check(RUN, version, digest)
    delta = rng.normal(size=config.num_params).astype(np.float32)
    return uploader.upload(LocalUpdate(RUN, version, digest, layout.digest, TASK, delta, 1))


if __name__ == "__main__":
    main(sys.argv[1])
