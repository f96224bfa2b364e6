"""Data and model of one seed, ready for the loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fl_client.trainer import TrainSettings
from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.cohort.base import ClientData
from fl_sim.cohort.choice import Problem
from fl_sim.data import FederatedData, load
from fl_sim.simulation import models
from fl_sim.simulation.config import SimulationConfig
from strategies.update import Vector


@dataclass(frozen=True)
class Workload:
    """What the clients of one seed learn.

    Attributes
    ----------
    problem : Problem
        Data, model and settings of local training.
    initial : Vector
        The untrained model.
    rare_shares : tuple of float
        Each client's share of the examples of rare classes.
    """

    problem: Problem
    initial: Vector
    rare_shares: tuple[float, ...]


def workload_from(config: SimulationConfig, seed: int) -> Workload:
    """Load and split the data and build the model: a pure function of its arguments.

    Raises
    ------
    ConfigInvalid
        If data, partition and model do not fit together, or a client has no examples.
    """
    data, train = config.data, config.train
    federated = load(data.name, config.devices.clients, data.partition, data.alpha, seed)
    clients = _joined(federated)
    _check_fit(config, clients)
    shape, classes = clients.inputs.shape[1:], len(federated.classes)
    settings = TrainSettings(train.lr, train.batch_size, seed=seed, steps=train.local_steps)
    problem = Problem(
        clients,
        (np.asarray(federated.test.features), federated.test.labels),
        settings,
        lambda: models.build(train.model, shape, classes, train.hidden),
        models.dense_sizes(train.model, shape, classes, train.hidden),
    )
    initial = models.seeded(seed, train.model, shape, classes, train.hidden)
    return Workload(problem, initial, federated.rare_shares())


def _check_fit(config: SimulationConfig, clients: ClientData) -> None:
    symbols = bool(np.issubdtype(clients.inputs.dtype, np.integer))
    if symbols != (config.train.model in models.ON_SYMBOLS):
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"train.model: {config.train.model} does not fit {config.data.name}, whose examples "
            f"are {'characters: use char-mlp' if symbols else 'numbers: use another model'}.",
        )


def _joined(federated: FederatedData) -> ClientData:
    sizes = [len(client) for client in federated.clients]
    if 0 in sizes:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"data: client {sizes.index(0)} has no examples; use fewer clients or a larger alpha.",
        )
    return ClientData(
        np.concatenate([client.features for client in federated.clients]),
        np.concatenate([client.labels for client in federated.clients]),
        np.arange(sum(sizes)),
        np.concatenate([[0], np.cumsum(sizes)]),
    )
