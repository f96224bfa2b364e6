"""The client of the jobs as a Flower app; a module of its own, so that Ray's actors import it.

What a client needs is built once per actor: its data are views of one array, and one module
serves all clients.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from benchmarks.peers import jobs
from benchmarks.peers.network import network

app = ClientApp()


@lru_cache(maxsize=1)
def _module(job: str) -> nn.Module:
    torch.set_num_threads(1)
    return network(job)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client for one pass over its data."""
    content = message.content
    model = _module(str(content.config_records["config"]["job"]))
    model.load_state_dict(content.array_records["arrays"].to_torch_state_dict())
    data = jobs.client_data(int(context.node_config["partition-id"]))
    inputs, labels = map(torch.from_numpy, data)
    optimiser = torch.optim.SGD(model.parameters(), jobs.LR)
    for rows in torch.randperm(jobs.EXAMPLES).split(jobs.BATCH_SIZE):  # type: ignore[no-untyped-call]
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    reply = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": jobs.EXAMPLES}),
        }
    )
    return Message(content=reply, reply_to=message)
