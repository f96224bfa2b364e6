"""A server that sends a few tasks, one after the other, and writes down the replies."""

import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    (node,) = grid.get_node_ids()
    crashes = [False, True, False] if context.run_config["crash"] else [False, False]
    replies = [described(ask(grid, node, crash)) for crash in crashes]
    Path(str(context.run_config["output"])).write_text(json.dumps(replies))


def ask(grid: Grid, node: int, crash: bool) -> Message:
    torch.manual_seed(0)
    arrays = ArrayRecord(torch.nn.Linear(4, 2).state_dict())
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"crash": crash})})
    ids = list(grid.push_messages([Message(content, node, MessageType.TRAIN)]))
    while not (replies := list(grid.pull_messages(ids))):
        time.sleep(0.1)
    return replies[0]


def described(reply: Message) -> dict[str, object]:
    if reply.has_error():
        return {"error": reply.error.reason}
    weights = reply.content.array_records["arrays"].to_numpy_ndarrays()
    return {
        "weights": [array.tobytes().hex() for array in weights],
        **reply.content.metric_records["metrics"],
    }
