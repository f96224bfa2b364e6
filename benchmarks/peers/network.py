"""The jobs' model as a PyTorch module, for the simulators that train modules.

APPFL loads a model from a file that it reads, so this one imports nothing from its neighbours but
by their full names.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from benchmarks.peers.jobs import JOBS, initial_weights


def network(job: str) -> nn.Sequential:
    """Build the model of the named job with its initial weights."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(JOBS[job].widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), initial_weights(JOBS[job]), strict=True):
            parameter.copy_(torch.from_numpy(values))
    return model
