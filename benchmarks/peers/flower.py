"""The jobs on Flower: its Ray simulation with one actor per core, ``FedAvg`` of ``serverapp``."""

from __future__ import annotations

import argparse
import os
from importlib.metadata import version

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.app.typing import ConfigRecordValues
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from benchmarks.peers import driver, jobs
from benchmarks.peers.flower_client import app as client_app
from benchmarks.peers.network import network


class _Federation:
    def __init__(self, job: jobs.Job, grid: Grid) -> None:
        self._grid, self._config = grid, ConfigRecord({"job": job.name})
        self._arrays = ArrayRecord(network(job.name).state_dict())

    def train(self, updates: int) -> None:
        strategy = FedAvg(
            fraction_train=jobs.MERGE_EVERY / jobs.CLIENTS,
            fraction_evaluate=0.0,
            min_available_nodes=jobs.CLIENTS,
        )
        result = strategy.start(
            self._grid,
            self._arrays,
            num_rounds=updates // jobs.MERGE_EVERY,
            train_config=self._config,
        )
        self._arrays = result.arrays

    def weights(self) -> list[jobs.Floats]:
        return self._arrays.to_numpy_ndarrays()


def _simulate(options: argparse.Namespace) -> None:
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        driver.measure(options, version("flwr"), lambda job: _Federation(job, grid))

    cores = os.cpu_count() or 1
    backend: dict[str, dict[str, ConfigRecordValues]] = {
        "init_args": {"num_cpus": cores, "include_dashboard": False, "log_to_driver": False},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    run_simulation(server_app, client_app, jobs.CLIENTS, backend_config=backend)


if __name__ == "__main__":
    _simulate(driver.arguments().parse_args())
