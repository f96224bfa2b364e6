"""The canary: a known tensor planted in one update, to be looked for everywhere afterwards."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable

from asynclave.canary import Needles
from asynclave.config import RunConfig

_LENGTH = 256
_SCALE = 1e-3


class CanaryMod:
    """A Flower mod that adds a random tensor to the first update of one client.

    Place it inside ``sealed_uploads``. The needles are both forms in which a leak would show:
    the values of the update (weights minus base) and the weights themselves.

    Parameters
    ----------
    client : int
        The client's ``partition-id``.
    seed : int
        Seed of the tensor.
    """

    def __init__(self, client: int, seed: int) -> None:
        self.client = client
        self.needles: Needles | None = None
        self._tensor = (
            np.random.default_rng((seed, 0xCA)).normal(scale=_SCALE, size=_LENGTH)
        ).astype(np.float32)

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Pass the message on and plant the tensor in the first reply of the chosen client."""
        reply = call_next(message, context)
        chosen = context.node_config["partition-id"] == self.client
        trains = message.metadata.message_type.startswith(MessageType.TRAIN)
        if self.needles is None and chosen and trains and reply.has_content():
            self._plant(_arrays(message), _arrays(reply))
        return reply

    def _plant(self, base: ArrayRecord, reply: ArrayRecord) -> None:
        key = next(iter(reply))
        start = base[key].numpy().ravel()[:_LENGTH]
        weights = reply[key].numpy().copy()
        planted = start + self._tensor[: start.size]
        weights.ravel()[: start.size] = planted
        reply[key] = Array(weights)
        self.needles = Needles.of(planted - start, planted)


def canary_of(config: RunConfig) -> CanaryMod:
    """Return the canary of a run: the same in every run of a seed."""
    return CanaryMod(client=config.devices.clients // 2, seed=config.run.seed)


def _arrays(message: Message) -> ArrayRecord:
    return next(iter(message.content.array_records.values()))
