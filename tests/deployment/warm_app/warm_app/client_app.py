"""A client that trains for a few seeded steps, or dies."""

import os
import signal

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    if message.content.config_records["config"]["crash"]:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.manual_seed(1)
    net = torch.nn.Linear(4, 2)
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    metrics = MetricRecord({"pid": os.getpid(), "draw": float(np.random.random())})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)
