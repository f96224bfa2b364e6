"""A client that says when it trains, and keeps the receipts it was given."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from asynclave import sealed_uploads

TRAIN_SECONDS = 1.0


def keep_receipts(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    reply = call_next(message, context)
    if reply.has_content():
        folder = Path(str(context.node_config["asynclave-config"])).parent
        with (folder / "acknowledged").open("a") as file:
            for record in reply.content.config_records.values():
                if record.get("code") == "accepted":
                    receipt = json.loads(bytes(record["payload"]))
                    file.write(f"{receipt['update_id']}\n")
    return reply


app = ClientApp(mods=[keep_receipts, sealed_uploads()])


@app.train()
def train(message: Message, context: Context) -> Message:
    folder = Path(str(context.node_config["asynclave-config"])).parent
    (folder / "training").touch()
    time.sleep(TRAIN_SECONDS)
    (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    weights = weights + np.float32(1 + int(context.node_config["partition-id"]))
    (folder / "training").unlink()
    arrays = ArrayRecord({"weights": Array(weights)})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 10})})
    return Message(content=content, reply_to=message)
