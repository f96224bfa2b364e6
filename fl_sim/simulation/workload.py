"""Data and model of one seed, ready for the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fl_client.optimiser import SGD
from fl_client.trainer import TrainSettings
from fl_protocol.codes import Code, ConfigInvalid
from fl_sim.cohort.base import ClientData
from fl_sim.cohort.choice import Problem
from fl_sim.data import DATA_SETS, FederatedData, load
from fl_sim.simulation import models
from fl_sim.simulation.client_task import ClientTask
from fl_sim.simulation.config import SimulationConfig
from strategies.roles import Roles
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
    roles : Roles
        What its columns hold.
    rare_shares : tuple of float
        Each client's share of the examples of rare classes.
    """

    problem: Problem
    initial: Vector
    roles: Roles
    rare_shares: tuple[float, ...]


def workload_from(config: SimulationConfig, seed: int) -> Workload:
    """Load and split the data and build the model: a pure function of its arguments.

    Raises
    ------
    ConfigInvalid
        If data, partition and model do not fit together, or a client has no examples.
    """
    train = config.train
    federated = _federated(config, seed)
    clients = _joined(federated)
    _check_fit(config, clients)
    shape, classes = clients.inputs.shape[1:], len(federated.classes)
    optimiser = SGD(train.lr, train.momentum, train.nesterov, train.weight_decay, train.proximal)
    settings = TrainSettings(optimiser, train.batch_size, seed=seed, steps=train.local_steps)
    problem = Problem(
        clients,
        (np.asarray(federated.test.features), federated.test.labels),
        settings,
        lambda: models.build(train.model, shape, classes, train.hidden),
        models.dense_sizes(train.model, shape, classes, train.hidden),
    )
    initial = models.seeded(seed, train.model, shape, classes, train.hidden)
    return Workload(problem, initial, models.roles_of(problem.model), federated.rare_shares())


def workload_of(task: ClientTask, config: SimulationConfig, seed: int) -> Workload:
    """Return what the clients of one seed learn when they are given a task of one's own."""
    train = config.train
    settings = TrainSettings(task.optimiser, train.batch_size, seed=seed, steps=train.local_steps)
    problem = Problem(
        task.data, task.test, settings, task.model, loss=task.loss, metric=task.metric
    )
    initial, roles = models.drawn(seed, task.model), models.roles_of(task.model)
    # No class is rare.
    return Workload(problem, initial, roles, (0.0,) * task.data.num_clients)


def check_data(config: SimulationConfig, seeds: Sequence[int]) -> None:
    """Refuse seeds whose data cannot be split, as `workload_from` does, without the model."""
    # Whether the other partitions fit does not depend on the seed.
    chosen = seeds if config.data.partition == "dirichlet" else seeds[:1]
    for seed in chosen:
        _check_fit(config, _joined(_federated(config, seed)))


def _federated(config: SimulationConfig, seed: int) -> FederatedData:
    data = config.data
    if data.name not in DATA_SETS:
        raise ConfigInvalid(
            Code.CONFIG_INVALID,
            f"data.name: there is no data set {data.name!r}; choose from {', '.join(DATA_SETS)}.",
        )
    try:
        return load(data.name, config.devices.clients, data.partition, data.alpha, seed)
    except ConfigInvalid as error:
        raise ConfigInvalid(error.code, f"data, seed {seed}: {error.sentence}") from None


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
    return ClientData.joined([(client.features, client.labels) for client in federated.clients])
