"""Whole uploads through a real gateway and a real enclave, and what those processes weigh."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.processes import memory_mib
from fl_client.config import ClientConfig
from fl_client.updates import LocalUpdate
from fl_client.uploader import SealedUploader
from fl_server.intake.sealed import SealedIntake
from fl_server.stack import LocalStack, StackSettings
from strategies.layout import Layout
from strategies.recipes.fedbuff import FedBuff
from strategies.update import digest_of

_CLIENTS, _BUFFER = 16, 4


def measure(num_params: tuple[int, ...]) -> dict[str, float]:
    """Return milliseconds per upload by model size, and MiB of each process.

    Every client uploads once per size, all from version 0, so each upload is accepted; the first
    merge of a size is left out. Enrolment and attestation happen before, as they do once per client
    and epoch in a federation. Processes are idle before the first size, and at their peak after
    the last.
    """
    figures: dict[str, float] = {}
    for size in num_params:
        # A stack for each: an enclave ends when another run follows one whose releases nobody took.
        idle, milliseconds, peak = _one_size(size)
        figures = {**idle, **figures, **peak, f"upload_{size}_ms": milliseconds}
    return figures


def _one_size(num_params: int) -> tuple[dict[str, float], float, dict[str, float]]:
    """Return memory before, the median of an upload, and the peaks of memory after."""
    settings = StackSettings(recipe=FedBuff(buffer_size=_BUFFER), k=_BUFFER)
    with tempfile.TemporaryDirectory() as folder, LocalStack(Path(folder), settings) as stack:
        pids = {"gateway": stack.gateway_pid, "enclave": stack.enclave_pid}
        idle = {f"{name}_idle_mib": memory_mib(pid, "VmRSS") for name, pid in pids.items()}
        uploaders = [
            SealedUploader(ClientConfig.load(stack.client_config(f"client-{index}")))
            for index in range(_CLIENTS)
        ]
        seconds = _uploads(stack.server_config(), uploaders, num_params)
        peak = {f"{name}_peak_mib": memory_mib(pid, "VmHWM") for name, pid in pids.items()}
        for uploader in uploaders:
            uploader.close()
    return idle, 1e3 * statistics.median(seconds[_BUFFER:]), peak


def _uploads(server: Path, uploaders: list[SealedUploader], num_params: int) -> list[float]:
    zeros = np.zeros(num_params, np.float32)
    layout = Layout.of({"weights": zeros})
    intake, run_id = SealedIntake(server), f"bench-{num_params}"
    intake.open(run_id, layout, zeros)
    delta = np.random.default_rng(1).normal(size=num_params).astype(np.float32)
    seconds = []
    for uploader in uploaders:
        update = LocalUpdate(run_id, 0, digest_of(zeros), layout.digest, "0" * 64, delta, 10)
        started = time.perf_counter()
        uploaded = uploader.upload(update)
        seconds.append(time.perf_counter() - started)
        if uploaded.receipt.outcome != "accepted":
            raise RuntimeError(f"the benchmark's update was refused: {uploaded.receipt.outcome}")
    intake.close()
    return seconds
