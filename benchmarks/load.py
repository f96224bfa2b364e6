"""Many clients at once: ``python -m benchmarks.load`` prints one JSON object.

With ``--soak-minutes`` four clients upload at a modest pace for as long, and the memory of gateway
and enclave is sampled: flat, if what they hold is bounded.

Clients are threads with identities of their own; each makes, keeps, seals and uploads an update of
every version, as nodes do, through a real gateway, which syncs it to its journal, into a real
enclave. They share the machine's cores with both, so the figures are those of the whole.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from benchmarks.processes import memory_mib
from fl_client.config import ClientConfig
from fl_client.updates import LocalUpdate, Uploaded
from fl_client.uploader import SealedUploader
from fl_protocol.flower import RECEIPT, receipt_entries
from fl_protocol.signatures import Signed
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.layout import Layout
from strategies.recipes.fedbuff import FedBuff
from strategies.update import digest_of

_RUN, _TASK = "load", "0" * 64
_FEWEST, _SOAKING = 2, 4
_MEGABYTE = 250_000


def measure(clients: int, megabytes: int, versions: int) -> dict[str, float]:
    """Return the figures of one load.

    Parameters
    ----------
    clients : int
        Uploads at a time.
    megabytes : int
        Size of an update.
    versions : int
        Models released; the first is not counted.
    """
    identities = max(clients, _FEWEST)
    recipe = FedBuff(buffer_size=identities)
    settings = StackSettings(recipe=recipe, k=_FEWEST, node_patience=120.0)
    with tempfile.TemporaryDirectory() as folder, LocalStack(Path(folder), settings) as stack:
        load = Load(stack, identities, megabytes * _MEGABYTE)
        load.version(clients)
        began, seconds = load.busy, len(load.seconds)
        for _ in range(versions):
            load.version(clients)
        measured, busy = np.array(load.seconds[seconds:]), load.busy - began
        pids = {"gateway": stack.gateway_pid, "enclave": stack.enclave_pid}
        return {
            "clients": clients,
            "megabytes": megabytes,
            "accepted": measured.size,
            "accepted_per_second": measured.size / busy,
            "p50_ms": 1e3 * float(np.quantile(measured, 0.5)),
            "p99_ms": 1e3 * float(np.quantile(measured, 0.99)),
            **{f"{name}_peak_mib": memory_mib(pid, "VmHWM") for name, pid in pids.items()},
        }


def soak(megabytes: int, minutes: float, pause: float) -> dict[str, float]:
    """Return how the memory of gateway and enclave developed under a steady load.

    Parameters
    ----------
    megabytes : int
        Size of an update.
    minutes : float
        How long; the first tenth warms up.
    pause : float
        Seconds between versions.
    """
    settings = StackSettings(FedBuff(buffer_size=_SOAKING), k=_FEWEST, node_patience=120.0)
    with tempfile.TemporaryDirectory() as folder, LocalStack(Path(folder), settings) as stack:
        load = Load(stack, _SOAKING, megabytes * _MEGABYTE)
        pids = {"gateway": stack.gateway_pid, "enclave": stack.enclave_pid}
        samples: list[list[float]] = []
        began = time.monotonic()
        while time.monotonic() - began < 60 * minutes:
            load.version(_SOAKING)
            samples.append([memory_mib(pid, "VmRSS") for pid in pids.values()])
            time.sleep(pause)
        memory = np.array(samples)[len(samples) // 10 :]
        parts = np.array_split(memory, 4)
        figures = {"minutes": minutes, "megabytes": megabytes, "accepted": len(load.seconds)}
        for column, name in enumerate(pids):
            first, last = (float(np.median(parts[part][:, column])) for part in (0, -1))
            figures |= {
                f"{name}_first_quarter_mib": first,
                f"{name}_last_quarter_mib": last,
                f"{name}_last_over_first": last / first,
                f"{name}_largest_mib": float(memory[:, column].max()),
            }
        return figures


class ServedRun:
    """A run of a stack, opened and taken further by its server.

    Parameters
    ----------
    stack : LocalStack
        Where.
    num_params : int
        Size of the model, which begins with zeros.
    """

    def __init__(self, stack: LocalStack, num_params: int) -> None:
        zeros = np.zeros(num_params, np.float32)
        self._layout = Layout.of({"weights": zeros})
        self._intake = SealedIntake(stack.server_config())
        self._intake.open(_RUN, self._layout, zeros)
        self._delta = np.random.default_rng(1).normal(size=num_params).astype(np.float32)

    def update(self) -> LocalUpdate:
        """Return an update of the newest model."""
        version, digest = self._intake.version, digest_of(self._intake.params)
        return LocalUpdate(_RUN, version, digest, self._layout.digest, _TASK, self._delta, 10)

    def hand_over(self, receipts: Sequence[tuple[Signed, str]]) -> None:
        """Give the server what clients got, a receipt and its outcome each, and fetch the merge."""
        version = self._intake.version
        for number, (signed, code) in enumerate(receipts):
            reply = RecordDict({RECEIPT: ConfigRecord(dict(receipt_entries(code, signed)))})
            outcome = self._intake.offer(reply, str(number), version, self._intake.params, 0.0)
            if not outcome.accepted:
                raise RuntimeError(f"an update of the benchmark was refused: {outcome.code}")
        while self._intake.take_merge():
            pass
        if self._intake.version != version + 1:
            raise RuntimeError("the benchmark's updates made no version")

    def close(self) -> None:
        """Let the server go."""
        self._intake.close()


class Load:
    """A run, and the clients that upload into it version by version."""

    def __init__(self, stack: LocalStack, identities: int, num_params: int) -> None:
        self._run = ServedRun(stack, num_params)
        self._uploaders = [
            SealedUploader(ClientConfig.load(stack.client_config(f"client-{number}")))
            for number in range(identities)
        ]
        self.seconds: list[float] = []
        self.busy = 0.0

    def version(self, at_once: int) -> None:
        """Have every client upload once, so many at a time, and fetch what they made."""
        update = self._run.update()

        def upload(uploader: SealedUploader) -> tuple[Uploaded, float]:
            began = time.perf_counter()
            uploader.settle(update.run_id, update.base_digest)
            uploaded = uploader.upload(update)
            return uploaded, time.perf_counter() - began

        began = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            finished = list(pool.map(upload, self._uploaders))
        self.busy += time.perf_counter() - began
        self.seconds += [seconds for _, seconds in finished]
        self._run.hand_over(
            [(uploaded.signed, uploaded.receipt.outcome) for uploaded, _ in finished]
        )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1])
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--soak-minutes", type=float, default=0.0)
    parser.add_argument("--soak-pause", type=float, default=0.5, help="seconds between versions")
    options = parser.parse_args()
    if options.soak_minutes:
        soaked = soak(options.megabytes[0], options.soak_minutes, options.soak_pause)
        print(json.dumps({name: round(value, 3) for name, value in soaked.items()}, indent=2))
        return
    figures = [
        measure(clients, size, options.versions)
        for size in options.megabytes
        for clients in options.clients
    ]
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rounded = [{k: round(v, 1) for k, v in figure.items()} for figure in figures]
    print(json.dumps({"loads": rounded, "clients_peak_mib": round(own, 1)}, indent=2))


if __name__ == "__main__":
    main()
