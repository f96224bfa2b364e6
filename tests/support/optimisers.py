"""Local optimisers, and the plain loop around `torch.optim.SGD` that they are held against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fl_client.optimiser import SGD
from fl_client.trainer import Batch, TrainSettings, passes

OPTIMISERS = {
    "plain": SGD(0.05),
    "momentum": SGD(0.05, momentum=0.9),
    "nesterov": SGD(0.05, momentum=0.9, nesterov=True),
    "weight-decay": SGD(0.05, weight_decay=0.1),
    "proximal": SGD(0.05, proximal=0.5),
    "all": SGD(0.02, momentum=0.8, nesterov=True, weight_decay=0.05, proximal=0.3),
}


def trained_by_torch(
    model: nn.Module,
    data: Batch,
    settings: TrainSettings,
    seed: int,
    mean_loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Train in place, FedProx's term written into the loss."""
    rule = settings.optimiser
    start = [p.detach().clone() for p in model.parameters()]
    optimiser = torch.optim.SGD(
        model.parameters(),
        rule.lr,
        rule.momentum,
        weight_decay=rule.weight_decay,
        nesterov=rule.nesterov,
    )
    model.train()
    for batches in passes(len(data), settings, torch.Generator().manual_seed(seed)):
        for rows in batches:
            pairs = zip(model.parameters(), start, strict=True)
            far = torch.stack([(p - anchor).square().sum() for p, anchor in pairs]).sum()
            loss = mean_loss(model(data.inputs[rows]), data.labels[rows])
            if rule.proximal:
                loss = loss + rule.proximal / 2 * far
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
