"""The local optimiser: SGD with momentum, weight decay and FedProx's proximal term.

With w_0 the model a task starts from and f the mean loss of a batch, a step is

    g <- grad f(w) + weight_decay * w + proximal * (w - w_0)
    v <- momentum * v + g,                     v = 0 at the start of every task
    w <- w - lr * v                            or w - lr * (g + momentum * v) with Nesterov,

which is what ``torch.optim.SGD`` does without dampening, plus the gradient of the proximal term
(proximal / 2) ||w - w_0||^2 of Li et al., *Federated Optimization in Heterogeneous Networks*
(1812.06127), equation 2. A parameter that the loss does not depend on stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.errors import BadOption


@dataclass(frozen=True)
class SGD:
    """Settings of the local optimiser, whose state every task begins afresh.

    Attributes
    ----------
    lr : float (default: 0.05)
        Learning rate, at least 0.
    momentum : float (default: 0.0)
        Share of the last step's direction that is kept, at least 0 and below 1.
    nesterov : bool (default: False)
        Nesterov's momentum in place of the heavy ball.
    weight_decay : float (default: 0.0)
        Factor of the parameters in the gradient, at least 0.
    proximal : float (default: 0.0)
        FedProx's mu, the pull towards the model the task starts from, at least 0.

    Raises
    ------
    BadOption
        If a number is out of range, or Nesterov's momentum is asked for without momentum.
    """

    lr: float = 0.05
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    proximal: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise BadOption(f"momentum must be at least 0 and below 1, not {self.momentum}.")
        for name in ("lr", "weight_decay", "proximal"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BadOption(f"{name} must be a finite number of at least 0, not {value}.")
        if self.nesterov and not self.momentum:
            raise BadOption("nesterov needs momentum: set it above 0.")

    @property
    def plain(self) -> bool:
        """Whether a step is the learning rate times the gradient and nothing else."""
        return not (self.momentum or self.weight_decay or self.proximal)


class Descent:
    """Changes parameters step by step, and holds the optimiser's state of a task.

    Factors are multiplied in before sums are taken: the kernels of a sum with a factor may round
    the last elements of a tensor differently, and where an element lies depends on how many
    clients are trained together.

    Parameters
    ----------
    optimiser : SGD
        The rule.
    parameters : sequence of Tensor
        Changed in place by `step`.
    """

    def __init__(self, optimiser: SGD, parameters: Sequence[Tensor]) -> None:
        self._rule = optimiser
        self._parameters = [parameter.detach() for parameter in parameters]
        self._velocities = self._like_parameters() if optimiser.momentum else []
        self._anchors = self._like_parameters() if optimiser.proximal else []
        self.begin()

    def begin(self) -> None:
        """Begin a task: with no velocity, from the parameters as they are now."""
        for velocity in self._velocities:
            velocity.zero_()
        for anchor, parameter in zip(self._anchors, self._parameters, strict=False):
            anchor.copy_(parameter)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Take a step.

        Parameters
        ----------
        gradients : sequence of Tensor or None
            One per parameter, of its shape; None leaves the parameter as it is.
        """
        rule = self._rule
        used = [place for place, gradient in enumerate(gradients) if gradient is not None]
        parameters = [self._parameters[place] for place in used]
        found = [gradient for gradient in gradients if gradient is not None]
        if rule.weight_decay:
            found = _sums(found, torch._foreach_mul(parameters, rule.weight_decay))
        if rule.proximal:
            moved = torch._foreach_sub(parameters, [self._anchors[place] for place in used])
            found = _sums(found, torch._foreach_mul(moved, rule.proximal))
        if rule.momentum:
            velocities = [self._velocities[place] for place in used]
            torch._foreach_mul_(velocities, rule.momentum)
            torch._foreach_add_(velocities, found)
            if rule.nesterov:
                found = _sums(found, torch._foreach_mul(velocities, rule.momentum))
            else:
                found = velocities
        torch._foreach_add_(parameters, found, alpha=-rule.lr)

    def _like_parameters(self) -> list[Tensor]:
        return [torch.empty_like(parameter) for parameter in self._parameters]


def _sums(ones: list[Tensor], others: tuple[Tensor, ...]) -> list[Tensor]:
    return list(torch._foreach_add(ones, others))
