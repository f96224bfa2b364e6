"""A server that times each task from the push to the reply, after one that is not counted."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

POLL_SECONDS = 0.02

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    (node,) = grid.get_node_ids()
    tasks = int(context.run_config["tasks"])
    seconds = [timed(grid, node) for _ in range(tasks + 1)]
    Path(str(context.run_config["output"])).write_text(json.dumps(seconds[1:]))


def timed(grid: Grid, node: int) -> float:
    """Return the seconds from the push of a task to its reply."""
    arrays = ArrayRecord({"weights": Array(np.zeros(10, np.float32))})
    message = Message(RecordDict({"arrays": arrays}), node, MessageType.TRAIN)
    started = time.perf_counter()
    ids = list(grid.push_messages([message]))
    while not (replies := list(grid.pull_messages(ids))):
        time.sleep(POLL_SECONDS)
    if replies[0].has_error():
        raise RuntimeError(replies[0].error.reason)
    (weights,) = replies[0].content.array_records["arrays"].to_numpy_ndarrays()
    assert (weights == 1).all()
    return time.perf_counter() - started
