"""The jobs on BlazeFL: ``FedAvgBaseClientTrainer``, its serial mode, with ordinary data loaders.

BlazeFL 3 asks for Python 3.14. It uses two things older versions lack: type parameters of
functions, and annotations evaluated lazily. `_Loader` makes up for both as its modules are read;
what they do stays the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import version
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Generator, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers import driver, jobs
from benchmarks.peers.network import network


class _Loader(SourceFileLoader):
    @staticmethod
    def source_to_code(data: Any, path: Any = "<string>", *, _optimize: int = -1) -> CodeType:
        source = re.sub(r"^(def \w+)\[\w+\]\(", r"\1(", data.decode(), flags=re.MULTILINE)
        code: CodeType = compile(source, path, "exec", annotations.compiler_flag, True)
        return code

    def path_stats(self, path: str) -> Any:
        raise OSError("bytecode written by pip lacks these changes")


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "blazefl":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


if sys.version_info < (3, 14):
    sys.meta_path.insert(0, _Finder())

from blazefl.contrib import FedAvgBaseClientTrainer, FedAvgBaseServerHandler  # noqa: E402


class _Models:
    def select_model(self, model_name: str) -> nn.Module:
        return network(model_name)


class _Clients:
    """BlazeFL's view of the data: a loader for each client."""

    def __init__(self) -> None:
        self._data = [
            TensorDataset(*map(torch.from_numpy, jobs.client_data(client)))
            for client in range(jobs.CLIENTS)
        ]

    def get_dataloader(
        self, type_: str, cid: int, batch_size: int, generator: Generator
    ) -> DataLoader[Any]:
        return DataLoader(self._data[cid], batch_size, shuffle=True, generator=generator)


class _Federation:
    def __init__(self, job: jobs.Job) -> None:
        common = {
            "model_selector": _Models(),
            "model_name": job.name,
            "dataset": _Clients(),
            "num_clients": jobs.CLIENTS,
            "device": "cpu",
            "batch_size": jobs.BATCH_SIZE,
            "seed": jobs.SEED,
        }
        self._clients = FedAvgBaseClientTrainer(epochs=1, lr=jobs.LR, **common)
        ratio = jobs.MERGE_EVERY / jobs.CLIENTS
        self._server = FedAvgBaseServerHandler(global_round=1, sample_ratio=ratio, **common)

    def train(self, updates: int) -> None:
        self._server.global_round = self._server.round + updates // jobs.MERGE_EVERY
        while not self._server.is_stopped():
            chosen = self._server.sample_clients()
            self._clients.local_process(self._server.downlink_package(), chosen)
            for package in self._clients.uplink_package():
                self._server.load(package)

    def weights(self) -> list[jobs.Floats]:
        return [p.detach().numpy() for p in self._server.model.parameters()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    driver.measure(driver.arguments().parse_args(), version("blazefl"), _Federation)
