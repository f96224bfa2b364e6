"""The jobs on pfl-research: ``SimulatedBackend`` and ``FederatedAveraging``, one process.

Users' data lie in memory as tensors and are cut into batches once, which is the cheapest way pfl
offers; it does not shuffle them.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from benchmarks.peers import driver, jobs
from benchmarks.peers.network import network


class _Classifier(nn.Module):
    """A network with the two methods pfl asks of a model."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self._loss = nn.CrossEntropyLoss()

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self._loss(self.layers(inputs), labels)
        return loss

    @torch.no_grad()
    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        loss = self.loss(inputs, labels).item() * len(labels)
        return {"loss": Weighted(loss, len(labels))}


class _Federation:
    def __init__(self, job: jobs.Job) -> None:
        classifier = _Classifier(network(job.name))
        central = torch.optim.SGD(classifier.parameters(), lr=1.0)
        self._model = PyTorchModel(classifier, torch.optim.SGD, central)
        users = {
            client: PyTorchTensorDataset(tuple(map(torch.from_numpy, jobs.client_data(client))))
            for client in range(jobs.CLIENTS)
        }
        data = FederatedDataset(users.__getitem__, get_user_sampler("random", list(users)))
        self._backend = SimulatedBackend(data, data)
        self._local = NNTrainHyperParams(
            local_batch_size=jobs.BATCH_SIZE, local_num_epochs=1, local_learning_rate=jobs.LR
        )

    def train(self, updates: int) -> None:
        rounds = updates // jobs.MERGE_EVERY
        # A frequency beyond the end: evaluation happens in the very first round only.
        settings = NNAlgorithmParams(rounds, rounds + 1, jobs.MERGE_EVERY, None)
        FederatedAveraging().run(
            settings, self._backend, self._model, self._local, send_metrics_to_platform=False
        )

    def weights(self) -> list[jobs.Floats]:
        return [p.detach().numpy() for p in self._model.pytorch_model.parameters()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    driver.measure(driver.arguments().parse_args(), version("pfl"), _Federation)
