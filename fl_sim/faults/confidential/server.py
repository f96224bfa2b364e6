"""The server of a world: production's confidential intake, which keeps its run on a disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ConfigRecord, RecordDict

from fl_client.updates import Uploaded
from fl_protocol.chain import Link, first_fault
from fl_protocol.codes import AsynclaveError, GatewayUnavailable, StorageFailed
from fl_protocol.flower import RECEIPT, receipt_entries
from fl_protocol.receipts import Head, Release, verify_head
from fl_server.intake.config import ServerConfig
from fl_server.intake.records import CHAIN, decode_record, head_epochs, head_name
from fl_server.intake.sealed import SealedIntake
from fl_sim.faults.chance import ChanceRng, Crash, Violation
from fl_sim.faults.confidential.actors import ProcessClock
from fl_sim.faults.confidential.node import LAYOUT, RUN, World
from fl_sim.faults.disk import SimulatedDisk
from strategies.recipe import Recipe
from strategies.update import Vector, digest_of

_FOLDER = Path("/server/run")
_TURN, _RETRY = 5.0, 5.0


class Server:
    """A server process and its machine.

    Parameters
    ----------
    config : ServerConfig
        Its bundle.
    recipe : Recipe
        Of the run.
    initial : Vector, shape (P,)
        First model.
    world : World
        Where it is.

    Attributes
    ----------
    task : tuple of int and Vector, or None
        What nodes are to train from; None while it is down.
    """

    def __init__(self, config: ServerConfig, recipe: Recipe, initial: Vector, world: World) -> None:
        self._config, self._recipe, self._initial, self._world = config, recipe, initial, world
        self.clock = ProcessClock(world.actors)
        self.disk = SimulatedDisk(world.chance, world.truth.seen)
        self.task: tuple[int, Vector] | None = None
        self._inbox: list[tuple[str, int, Uploaded]] = []

    def deliver(self, node: str, version: int, uploaded: Uploaded) -> None:
        """Receive a node's reply to a task, unless the server is down."""
        if self.task is not None:
            self._inbox.append((node, version, uploaded))

    def live(self) -> None:
        """Serve, again and again after each death."""
        while True:
            try:
                self._serve()
            except Crash:
                self._world.restart(self.disk)
            except AsynclaveError:
                # Its supervisor starts it again.
                self._world.actors.sleep(_RETRY)
            finally:
                self.task = None
                self._inbox.clear()

    def check_records(self, keys: Mapping[int, bytes]) -> None:
        """I5: the records are whole, and name every version there is."""
        links = [Link.of(decode_record(line)) for line in self.disk.read(_FOLDER / CHAIN).split()]
        epochs = head_epochs(self.disk.list(_FOLDER))
        heads = {epoch: self._head(epoch, keys) for epoch in epochs}
        fault = first_fault(links, keys, heads)
        if fault is not None:
            raise Violation(f"I5: record {fault.index} of the server: {fault.detail}")
        versions = {link.record.version for link in links if isinstance(link.record, Release)}
        if missing := self._world.truth.versions.keys() - versions - {0}:
            raise Violation(f"I5: the server has no record of version {min(missing)}")

    def _head(self, epoch: int, keys: Mapping[int, bytes]) -> Head:
        return verify_head(decode_record(self.disk.read(_FOLDER / head_name(epoch))), keys[epoch])

    def _serve(self) -> None:
        world = self._world
        intake = SealedIntake(
            self._config,
            self._recipe,
            state_folder=_FOLDER,
            clock=self.clock,
            rng=ChanceRng(world.chance),
            watch_interval=math.inf,
            disk=self.disk,
            carrier=world.wire(self.disk, self.clock),
        )
        try:
            intake.open(RUN, LAYOUT, self._initial)
            while True:
                self._publish(intake)
                world.actors.sleep(_TURN)
                self._take_in(intake)
        except AsynclaveError:
            intake.close()
            raise

    def _publish(self, intake: SealedIntake) -> None:
        while intake.take_merge() is not None:
            pass
        self._world.truth.served(intake.version, digest_of(intake.params))
        self.task = intake.version, intake.params

    def _take_in(self, intake: SealedIntake) -> None:
        inbox, self._inbox = self._inbox, []
        for node, version, uploaded in inbox:
            entries = receipt_entries(uploaded.receipt.outcome, uploaded.signed)
            reply = RecordDict({RECEIPT: ConfigRecord(dict(entries))})
            try:
                intake.offer(reply, node, version, intake.params, 0.0)
            except (GatewayUnavailable, StorageFailed):
                # It may work again, as for the strategy.
                continue
        try:
            intake.follow_enclave()
        except (GatewayUnavailable, StorageFailed):
            return
