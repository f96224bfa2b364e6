"""The client half: trains on this node's partition and replies with the full weights.

Written as for FedAvg. The one addition is the mod `seal_if_enrolled`; an app that is only ever
used in plain mode does without it.
"""

import time

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from torch.utils.data import TensorDataset

from asynclave import sealed_uploads
from quickstart import task

seal = sealed_uploads()


def seal_if_enrolled(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Seal the update if the node's operator gave the node a bundle.

    Only the operator decides: no run configuration or message of the server can make an
    enrolled node send its update in plain.
    """
    if "asynclave-config" in context.node_config:
        return seal(message, context, call_next)
    return call_next(message, context)


app = ClientApp(mods=[seal_if_enrolled])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on this node's examples."""
    net = _received_model(message)
    data, _ = _own_data(context)
    time.sleep(float(context.node_config.get("delay", 0.0)))  # emulates a slow device
    loss = task.train(
        net,
        data,
        epochs=int(context.run_config["local-epochs"]),
        lr=float(context.run_config["learning-rate"]),
        batch_size=int(context.run_config["batch-size"]),
    )
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(data)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received model on this node's held-out examples."""
    _, data = _own_data(context)
    loss, accuracy = task.evaluate(_received_model(message), data)
    metrics = MetricRecord({"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(data)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def _received_model(message: Message) -> task.Net:
    net = task.Net()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return net


def _own_data(context: Context) -> tuple[TensorDataset, TensorDataset]:
    config = context.node_config
    return task.load_data(int(config["partition-id"]), int(config["num-partitions"]))
