"""A Flower grid on virtual time that loses, repeats and spoils messages, and a clock that jumps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_sim.clock import VirtualClock
from fl_sim.devices import lognormal_devices
from fl_sim.faults.chance import Chance
from fl_sim.faults.disk import SimulatedDisk
from fl_sim.grid import VirtualGrid

Floats = npt.NDArray[np.float32]

SIZE = 6
MEDIAN_SECONDS = 30.0
_SHORTEST_STEP, _LONGEST_STEP = 1.0, 3600.0


class JumpingClock(VirtualClock):
    """Virtual time that can be set back.

    Attributes
    ----------
    elapsed : float
        Seconds that have really passed.
    """

    def __init__(self) -> None:
        super().__init__(1_800_000_000.0)
        self.elapsed = 0.0

    def advance_to(self, when: float) -> None:
        """Advance to a time in seconds."""
        self.elapsed += max(0.0, when - self.now())
        super().advance_to(when)

    def step(self, seconds: float) -> None:
        """Set the clock ahead or back."""
        self._now += seconds


class Trainers:
    """The nodes' ClientApp: every update is unique, so that it can be told from all others.

    Attributes
    ----------
    deltas : dict of str to ndarray
        Every update ever made, by the hex SHA-256 of its float32 bytes.
    """

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._rng = np.random.default_rng(chance.rng.randrange(2**32))
        self.made = 0
        self.deltas: dict[str, Floats] = {}
        self.app = ClientApp()
        self.app.train()(self._train)

    def _train(self, message: Message, context: object) -> Message:
        self.made += 1
        (record,) = message.content.array_records.values()
        base = record["w"].numpy()
        weights = base + self._rng.normal(size=SIZE).astype(np.float32)
        examples: float = 1 + self.made % 50
        if self._chance.strikes("corrupt"):
            weights, examples = self._spoiled(weights, examples)
        if weights.shape == base.shape:
            delta = weights - base
            self.deltas[sha256(delta.data).hexdigest()] = delta
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(weights)}),
                "metrics": MetricRecord({"num-examples": examples}),
            }
        )
        return Message(content, reply_to=message)

    def _spoiled(self, weights: Floats, examples: float) -> tuple[Floats, float]:
        kind = self._chance.rng.randrange(4)
        if kind == 0:
            return np.full_like(weights, np.nan), examples
        if kind == 1:
            return weights[:-1], examples
        return weights, (-3, 0.5)[kind - 2]


class FaultyGrid(VirtualGrid):
    """A fleet that outlives its servers.

    Parameters
    ----------
    trainers : Trainers
        What the nodes run.
    num_nodes : int
        Nodes.
    chance : Chance
        Decides what goes wrong.
    disk : SimulatedDisk
        Of the server's machine, which may die whenever it talks to the nodes.
    """

    def __init__(
        self, trainers: Trainers, num_nodes: int, chance: Chance, disk: SimulatedDisk
    ) -> None:
        devices = lognormal_devices(num_nodes, sigma=0.7, seed=chance.rng.randrange(2**31))
        devices = type(devices)(
            tuple(MEDIAN_SECONDS * seconds for seconds in devices.seconds), devices.jitter
        )
        super().__init__(trainers.app, num_nodes, devices)
        self.clock: JumpingClock = JumpingClock()
        self._chance, self._disk = chance, disk
        self._again: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages, of which some are lost on the way."""
        self._disk.step()
        ids = super().push_messages(messages)
        for message_id in ids:
            if message_id and self._chance.strikes("lose_task"):
                del self._tasks[message_id]
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return replies, of which some are lost, repeated, or die with the server."""
        replies = super().pull_messages(message_ids)
        if self._chance.strikes("clock_step"):
            self.clock.step(self._step())
        # Whoever pulled them has them, and nobody else.
        self._disk.step()
        replies = [reply for reply in replies if not self._chance.strikes("lose_reply")]
        repeated, self._again = self._again, []
        self._again = [reply for reply in replies if self._chance.strikes("repeat")]
        return repeated + replies

    def _step(self) -> float:
        rng = self._chance.rng
        seconds = math.exp(rng.uniform(math.log(_SHORTEST_STEP), math.log(_LONGEST_STEP)))
        return rng.choice((-1.0, 1.0)) * seconds

    def forget(self) -> None:
        """Drop what is under way: it was asked for by a server that is dead."""
        self._tasks.clear()
        self._again.clear()
        now = self.clock.now()
        for node in self._nodes.values():
            node.busy_until = min(node.busy_until, now + MEDIAN_SECONDS)
