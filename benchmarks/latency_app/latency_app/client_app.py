"""A client that adds one, with or without torch."""

from collections import OrderedDict

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    arrays = message.content.array_records["arrays"]
    if context.run_config["torch"]:
        import torch

        state = OrderedDict(
            (key, torch.add(value, 1)) for key, value in arrays.to_torch_state_dict().items()
        )
        reply = ArrayRecord(state)
    else:
        reply = ArrayRecord([array + 1 for array in arrays.to_numpy_ndarrays()])
    content = RecordDict({"arrays": reply, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)
