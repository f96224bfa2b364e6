"""A ready-made ClientApp around the local trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from torch import nn

from fl_client.trainer import Batch, TrainSettings, evaluate, task_seed, train
from fl_protocol.flower import BASE_VERSION, REPLIES


@dataclass(frozen=True)
class LocalData:
    """The data of one client.

    Attributes
    ----------
    train : Batch
        Examples to train on.
    evaluate : Batch
        Examples to evaluate on.
    """

    train: Batch
    evaluate: Batch


def make_client_app(
    load_data: Callable[[Context], LocalData],
    model: Callable[[], nn.Module],
    *,
    settings: TrainSettings | None = None,
    mods: list[Mod] | None = None,
    num_threads: int = 1,
) -> ClientApp:
    """Build a ClientApp that trains and evaluates a PyTorch classifier.

    Replies follow the conventions of Flower's quickstart: the model's ``state_dict`` as
    ``"arrays"`` and ``"train-loss"`` or ``"eval-loss"``, ``"eval-acc"`` with
    ``"num-examples"`` as ``"metrics"``. The server may override learning rate and epochs with
    the config entries ``"lr"`` and ``"epochs"``, and ask for deltas instead of weights.

    Parameters
    ----------
    load_data : callable
        Returns the data of the node, whose number is ``context.node_config["partition-id"]``.
        Called for every task: cache what is slow to load.
    model : callable
        Builds the model; its weights are replaced by those received.
    settings : TrainSettings, optional
        Settings of local training.
    mods : list of Mod, optional
        Flower mods, such as ``fl_client.mods.sealed_uploads()``.
    num_threads : int (default: 1)
        PyTorch threads per process; one keeps results reproducible.
    """
    defaults = settings or TrainSettings()
    app = ClientApp(mods=mods)

    @app.train()
    def train_task(message: Message, context: Context) -> Message:
        torch.set_num_threads(num_threads)
        arrays, config = _received(message)
        data, network = load_data(context).train, model()
        network.load_state_dict(arrays.to_torch_state_dict())
        loss = train(network, data, _overridden(defaults, config), _seed(defaults, config, context))
        metrics = MetricRecord({"train-loss": loss, "num-examples": len(data)})
        reply = ArrayRecord(network.state_dict())
        if config.get(REPLIES) == "deltas":
            reply = _difference(reply, arrays)
        return Message(RecordDict({"arrays": reply, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate_task(message: Message, context: Context) -> Message:
        torch.set_num_threads(num_threads)
        arrays, _ = _received(message)
        data, network = load_data(context).evaluate, model()
        network.load_state_dict(arrays.to_torch_state_dict())
        loss, accuracy = evaluate(network, data)
        metrics = MetricRecord({"eval-loss": loss, "eval-acc": accuracy, "num-examples": len(data)})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def _received(message: Message) -> tuple[ArrayRecord, ConfigRecord]:
    arrays = next(iter(message.content.array_records.values()))
    config = next(iter(message.content.config_records.values()), ConfigRecord())
    return arrays, config


def _overridden(settings: TrainSettings, config: ConfigRecord) -> TrainSettings:
    lr, epochs = config.get("lr", settings.optimiser.lr), config.get("epochs", settings.epochs)
    if not isinstance(lr, (int, float)) or not isinstance(epochs, int):
        raise ValueError("the config entries lr and epochs must be numbers")
    optimiser = replace(settings.optimiser, lr=float(lr))
    return replace(settings, optimiser=optimiser, epochs=epochs)


def _seed(settings: TrainSettings, config: ConfigRecord, context: Context) -> int:
    version = config.get(BASE_VERSION, config.get("server-round", 0))
    client = context.node_config.get("partition-id", context.node_id)
    return task_seed(settings.seed, str(client), int(version) if isinstance(version, int) else 0)


def _difference(reply: ArrayRecord, base: ArrayRecord) -> ArrayRecord:
    return ArrayRecord({key: Array(reply[key].numpy() - base[key].numpy()) for key in reply})
