"""The jobs on APPFL's virtual-time simulator ``vsim``: asynchronous FedBuff, one process.

APPFL calls ``gc.collect`` many times per update unless its option ``optimize_memory`` is off.
It is off here, and nothing is logged; ``--as-shipped`` leaves the option as it is by default.

APPFL imports image metrics from piq and, with it, torchvision, whose wheel on PyPI is built for
CUDA and does not load beside the CPU build of PyTorch. An empty piq stands in for it there; the
jobs use no such metric.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from benchmarks.peers import driver, jobs
from benchmarks.peers.network import network

if torch.version.cuda is None:
    sys.modules["piq"] = Mock()

from appfl.agent import SimClientAgent, SimServerAgent
from appfl.vsim import AsyncSimDriver, ClientProfile


def accuracy(labels: NDArray[Any], logits: NDArray[Any]) -> float:
    """Return the share of correct predictions; APPFL asks for a metric of the training batches."""
    return float((logits.argmax(axis=1) == labels).mean())


class _Federation:
    def __init__(self, job: jobs.Job, *, as_shipped: bool) -> None:
        self._server = SimServerAgent(_server_config(job, as_shipped=as_shipped))
        clients = [_client(job, client, as_shipped=as_shipped) for client in range(jobs.CLIENTS)]
        rng = random.Random(jobs.SEED)
        self._simulation = AsyncSimDriver(
            self._server,
            clients,
            {client.get_id(): ClientProfile(rng.lognormvariate(0, 1.2)) for client in clients},
            max_in_flight=2 * jobs.MERGE_EVERY,
            logger=logging.getLogger("vsim"),
            seed=jobs.SEED,
            base_step_time=1.0,
        )

    def train(self, updates: int) -> None:
        # One of APPFL's "global epochs" is one update received, merged or not.
        self._server.server_agent_config.server_configs.num_global_epochs += updates
        self._simulation.run()

    def weights(self) -> list[jobs.Floats]:
        return [p.detach().numpy() for p in self._server.model.parameters()]


def _server_config(job: jobs.Job, *, as_shipped: bool) -> dict[str, Any]:
    memory = {} if as_shipped else {"optimize_memory": False}
    # APPFL divides by the number of clients where the paper divides by K; alpha makes up for it.
    aggregator = {"K": jobs.MERGE_EVERY, "alpha": jobs.CLIENTS / jobs.MERGE_EVERY}
    server = {
        "num_clients": jobs.CLIENTS,
        "num_global_epochs": 0,
        "scheduler": "AsyncScheduler",
        "scheduler_kwargs": memory,
        "aggregator": "FedBuffAggregator",
        "aggregator_kwargs": aggregator | memory,
    }
    return {
        "server_configs": server | memory,
        "client_configs": {"train_configs": {}, "model_configs": _model_config(job)},
    }


def _client(job: jobs.Job, client: int, *, as_shipped: bool) -> SimClientAgent:
    memory = {} if as_shipped else {"optimize_memory": False}
    train = {
        "trainer": "VanillaTrainer",
        "mode": "epoch",
        "num_local_epochs": 1,
        "optim": "SGD",
        "optim_args": {"lr": jobs.LR},
        "train_batch_size": jobs.BATCH_SIZE,
        "loss_fn": "CrossEntropyLoss",
        "metric_path": __file__,
        "metric_name": accuracy.__name__,
    }
    config = {"train_configs": train | memory, "model_configs": _model_config(job)} | memory
    data = TensorDataset(*map(torch.from_numpy, jobs.client_data(client)))
    return SimClientAgent(config, client_id=str(client), client_dataset=data)


def _model_config(job: jobs.Job) -> dict[str, Any]:
    file = Path(__file__).with_name("network.py")
    return {
        "model_path": str(file),
        "model_name": network.__name__,
        "model_kwargs": {"job": job.name},
    }


def _main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    start = partial(_Federation, as_shipped=options.as_shipped)
    driver.measure(options, version("appfl"), start)


if __name__ == "__main__":
    parser = driver.arguments()
    parser.add_argument("--as-shipped", action="store_true", help="leave optimize_memory on")
    _main(parser.parse_args())
