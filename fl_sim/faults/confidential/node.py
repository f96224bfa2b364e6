"""A node of a world: trains nothing in particular, and delivers it as production does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fl_client.config import ClientConfig
from fl_client.outbox import Outbox
from fl_client.updates import LocalUpdate, Uploaded
from fl_client.uploader import SealedUploader
from fl_protocol.codes import AsynclaveError
from fl_protocol.identity import IdentityStore
from fl_protocol.receipts import ACCEPTED
from fl_sim.faults.chance import Chance, ChanceRng, Crash
from fl_sim.faults.confidential.actors import Actors, ProcessClock
from fl_sim.faults.confidential.network import Network, SimulatedWire
from fl_sim.faults.confidential.truth import Truth
from fl_sim.faults.disk import SimulatedDisk
from strategies.layout import Layout
from strategies.update import Vector, digest_of

RUN = "confidential"
TASK = "0" * 64
SIZE = 6
LAYOUT = Layout.of({"w": np.zeros(SIZE, np.float32)})
_DOWN = (0.5, 10.0)
_TRAINING = (10.0, 60.0)
_PAUSE, _RETRY = 2.0, 5.0


@dataclass(frozen=True)
class World:
    """What all processes of a world share."""

    actors: Actors
    chance: Chance
    truth: Truth
    network: Network

    def wire(self, disk: SimulatedDisk, clock: ProcessClock) -> Callable[[Any], SimulatedWire]:
        """Return what makes the wire of an identity on a machine."""
        rng = ChanceRng(self.chance)
        return lambda identity: SimulatedWire(self.network, disk, self.chance, identity, clock, rng)

    def restart(self, disk: SimulatedDisk) -> None:
        """Bring a machine back after its death, of which half are a loss of power."""
        if self.chance.rng.random() < 0.5:
            disk.lose_power()
        self.actors.sleep(self.chance.rng.uniform(*_DOWN))
        disk.start()


class Node:
    """A client process and its machine.

    Parameters
    ----------
    name : str
        Of the node.
    config : ClientConfig
        Its bundle.
    world : World
        Where it is.
    task : callable
        Returns version and parameters to train from, None while there is no server.
    deliver : callable
        Takes the node's name, a base version and what the enclave has answered.
    """

    def __init__(
        self,
        name: str,
        config: ClientConfig,
        world: World,
        task: Callable[[], tuple[int, Vector] | None],
        deliver: Callable[[str, int, Uploaded], None],
    ) -> None:
        self.name, self._config, self._world = name, config, world
        self._task, self._deliver = task, deliver
        self.clock = ProcessClock(world.actors)
        self.disk = SimulatedDisk(world.chance, world.truth.seen)
        self._rng = np.random.default_rng(world.chance.rng.randrange(2**32))

    @property
    def ticket(self) -> str | None:
        """Its ticket once that is redeemed."""
        return self._config.ticket if self._undisturbed(self._store.load_enrolment) else None

    def live(self) -> None:
        """Work, again and again after each death."""
        while True:
            try:
                self._work_until_death()
            except Crash:
                self._world.restart(self.disk)

    def kept(self) -> set[str]:
        """Return the ids of the updates in its outbox."""
        found: set[str] = self._undisturbed(self._kept)
        return found

    @property
    def _store(self) -> IdentityStore:
        return IdentityStore(Path(self._config.identity_dir), self.disk)

    def _kept(self) -> set[str]:
        identity = self._store.load()
        if identity is None:
            return set()
        folder = Path(self._config.identity_dir) / "outbox"
        outbox = Outbox(folder, identity, ChanceRng(self._world.chance), disk=self.disk)
        return {kept.update_id for kept in outbox.of(RUN)}

    def _undisturbed(self, look: Callable[[], Any]) -> Any:
        chance, dead = self._world.chance, self.disk.dead
        active, chance.active, self.disk.dead = chance.active, False, False
        try:
            return look()
        finally:
            chance.active, self.disk.dead = active, dead

    def _work_until_death(self) -> None:
        uploader = self._begun()
        while True:
            try:
                self._work(uploader)
                self._world.actors.sleep(self._rng.exponential(_PAUSE))
            except AsynclaveError:
                self._world.actors.sleep(_RETRY)

    def _begun(self) -> SealedUploader:
        while True:
            try:
                return SealedUploader(
                    self._config,
                    self.clock,
                    ChanceRng(self._world.chance),
                    disk=self.disk,
                    carrier=self._world.wire(self.disk, self.clock),
                )
            except AsynclaveError:
                self._world.actors.sleep(_RETRY)

    def _work(self, uploader: SealedUploader) -> None:
        task = self._task()
        if task is None:
            self._world.actors.sleep(_RETRY)
            return
        version, params = task
        uploaded = self._delivered(uploader, version, params)
        if uploaded.receipt.outcome == ACCEPTED:
            self._world.truth.acknowledged[uploaded.receipt.update_id] = self.name
        self._deliver(self.name, version, uploaded)

    def _delivered(self, uploader: SealedUploader, version: int, params: Vector) -> Uploaded:
        digest = digest_of(params)
        settled = uploader.settle(RUN, digest)
        if settled is not None:
            return settled.uploaded
        uploader.check(RUN, version, digest)
        self._world.actors.sleep(self._rng.uniform(*_TRAINING))
        delta = self._rng.normal(size=SIZE).astype(np.float32)
        if self._world.chance.strikes("corrupt"):
            delta[:] = np.nan
        else:
            self._world.truth.trained(delta)
        update = LocalUpdate(
            RUN, version, digest, LAYOUT.digest, TASK, delta, int(self._rng.integers(1, 50))
        )
        return uploader.upload(update)
