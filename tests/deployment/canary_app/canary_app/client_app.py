"""A client whose trained weights are its planted tensor."""

import time

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from asynclave import sealed_uploads
from canary_app.planted import planted

app = ClientApp(mods=[sealed_uploads()])


@app.train()
def train(message: Message, context: Context) -> Message:
    time.sleep(float(context.node_config.get("delay", 0.0)))
    weights = planted(int(context.node_config["partition-id"]))
    content = RecordDict(
        {
            "arrays": ArrayRecord({"weights": Array(weights)}),
            "metrics": MetricRecord({"num-examples": 10}),
        }
    )
    return Message(content=content, reply_to=message)
