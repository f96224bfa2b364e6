"""A small federation on virtual time: synthetic digits, a tiny model, chosen misbehaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MessageType, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result
from torch import nn

from fl_client.app import LocalData, make_client_app
from fl_client.trainer import Batch, TrainSettings, evaluate, mlp
from fl_server.strategy import AsyncStrategy
from fl_server.strategy.events import EvaluationEvent, Event, MergeEvent, UpdateEvent
from fl_sim.devices import lognormal_devices
from fl_sim.grid import VirtualGrid

Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]
INPUTS, CLASSES = 8, 3


def blobs(num_examples: int, seed: int) -> Batch:
    """Three well separated clusters."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, num_examples)
    centres = np.random.default_rng(7).normal(size=(CLASSES, INPUTS)) * 2
    inputs = centres[labels] + rng.normal(size=(num_examples, INPUTS))
    return Batch(torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels))


def small_model() -> nn.Module:
    return mlp(INPUTS, 6, CLASSES)


def initial_arrays(model: Callable[[], nn.Module] = small_model) -> ArrayRecord:
    torch.manual_seed(0)
    return ArrayRecord(model().state_dict())


def partition(context: Context) -> int:
    number = context.node_config["partition-id"]
    assert isinstance(number, int)
    return number


def client_app(
    *,
    mods: list[Mod] | None = None,
    model: Callable[[], nn.Module] = small_model,
    seed: int = 0,
) -> ClientApp:
    """The default app; client i holds 30 + i examples."""

    def load(context: Context) -> LocalData:
        number = partition(context)
        return LocalData(blobs(30 + number, 100 + number), blobs(20, 200 + number))

    return make_client_app(load, model, mods=mods, settings=TrainSettings(seed=seed))


def echo_app() -> ClientApp:
    """Replies what it is sent."""
    app = ClientApp()

    @app.train()
    @app.evaluate()
    def echo(message: Message, context: Context) -> Message:
        return Message(message.content, reply_to=message)

    return app


def virtual_grid(
    num_nodes: int = 6, app: ClientApp | None = None, **options: object
) -> VirtualGrid:
    devices = lognormal_devices(num_nodes, sigma=0.8, seed=3)
    return VirtualGrid(app or client_app(), num_nodes, devices, **options)


def accuracy_of(arrays: ArrayRecord, model: Callable[[], nn.Module] = small_model) -> float:
    network = model()
    network.load_state_dict(arrays.to_torch_state_dict())
    return evaluate(network, blobs(300, 999))[1]


def central(version: int, arrays: ArrayRecord) -> MetricRecord:
    return MetricRecord({"accuracy": accuracy_of(arrays)})


@dataclass
class Recorder:
    """An observer that keeps what it hears."""

    updates: list[UpdateEvent] = field(default_factory=list)
    merges: list[MergeEvent] = field(default_factory=list)
    evaluations: list[EvaluationEvent] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, UpdateEvent):
            self.updates.append(event)
        elif isinstance(event, MergeEvent):
            self.merges.append(event)
        else:
            self.evaluations.append(event)


def train(strategy: AsyncStrategy, grid: VirtualGrid, rounds: int, **options: object) -> Result:
    return strategy.start(grid, initial_arrays(), num_rounds=rounds, **options)


def spoiled(clients: set[int], spoil: Callable[[Message], None]) -> Mod:
    """A mod that spoils the training replies of some clients."""

    def mod(message: Message, context: Context, call_next: object) -> Message:
        reply = call_next(message, context)
        if partition(context) in clients and message.metadata.message_type == MessageType.TRAIN:
            spoil(reply)
        assert isinstance(reply, Message)
        return reply

    return mod
