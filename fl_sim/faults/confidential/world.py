"""One seed's confidential world, and the operator who restarts what has died in it."""

from __future__ import annotations

import hashlib
import math
import traceback
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl_client.config import ClientConfig
from fl_protocol.codes import AsynclaveError, Code
from fl_protocol.encoding import b64url
from fl_protocol.identity import Identity
from fl_protocol.proto import gateway_pb2 as pb
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.issuer import create_ticket
from fl_server.gateway.registry import open_registry
from fl_server.gateway.token_keys import rotate
from fl_server.intake.config import ServerConfig
from fl_server.stack import StackSettings
from fl_sim.faults.chance import Chance, ChanceRng, Crash, Violation
from fl_sim.faults.confidential.actors import Actors, ProcessClock
from fl_sim.faults.confidential.enclave import MEASUREMENT, Platform
from fl_sim.faults.confidential.gateway import Gateway
from fl_sim.faults.confidential.network import Network, SimulatedWire
from fl_sim.faults.confidential.node import SIZE, Node, World
from fl_sim.faults.confidential.rates import ConfidentialRates
from fl_sim.faults.confidential.server import Server
from fl_sim.faults.confidential.truth import Terms, Truth
from fl_sim.faults.disk import SimulatedDisk
from fl_sim.faults.world import Report, silence
from strategies.recipes.fedbuff import FedBuff
from strategies.screening import Limits
from tee_sim.enclave.run import rule_of
from tee_sim.node_config import NodeConfig

_NODES, _K, _MAX_STALENESS = 6, 3, 8
_TURN, _DOWN = 1.0, (0.5, 5.0)
_PATIENCE_SECONDS, _QUIET_SECONDS = 900.0, 120.0
_LOOK_SECONDS = 300.0
_STEP_SECONDS, _STEP_LASTS = (1.0, 3600.0), (5.0, 120.0)
_LOUD = ("asyncio", "fl_client", "fl_server", "tee_sim")
_Config = TypeVar("_Config", bound=NodeConfig)


class ConfidentialWorld:
    """A confidential run under faults.

    Parameters
    ----------
    seed : int
        Decides every fault.
    hours : float
        Virtual hours under faults; then they stop, and the run must recover.
    rates : ConfidentialRates, optional
        How often each fault strikes.
    """

    def __init__(self, seed: int, hours: float, rates: ConfidentialRates | None = None) -> None:
        self._seconds = 3600 * hours
        self._chance = Chance(seed, rates or ConfidentialRates())
        self._rng = ChanceRng(self._chance)
        self._actors = Actors()
        self._settings = StackSettings(
            recipe=FedBuff(buffer_size=_K), k=_K, max_staleness=_MAX_STALENESS
        )
        self._newest, self._progress = 0, 0.0
        self.report = Report(seed)

    def run(self) -> Report:
        """Live until the hours are over and the run has recovered."""
        with TemporaryDirectory(prefix="asynclave-world-") as folder, silence(*_LOUD):
            # Nothing strikes while a federation is set up.
            self._chance.active = False
            self._set_up(Path(folder))
            self._chance.active = True
            try:
                self._actors.run()
            except Violation as violation:
                self._break(str(violation))
            except Exception:
                self._break(f"R: something failed:\n{traceback.format_exc()}")
            if self._network.gateway is not None:
                self._network.gateway.end()
        self._fill_in()
        return self.report

    def _break(self, what: str) -> None:
        self.report.violation = f"{what} (at {self._actors.elapsed / 3600:.3f} h)"

    def _fill_in(self) -> None:
        report, truth, struck = self.report, self._truth, self._chance.struck
        report.hours = self._actors.elapsed / 3600
        report.updates, report.acknowledged = len(truth.deltas), len(truth.acknowledged)
        report.versions, report.replayed = truth.version, truth.replayed
        report.crashes = struck["crash"] + struck["enclave"]
        report.faults = dict(sorted(struck.items()))
        seen = (sorted(truth.versions.items()), sorted(truth.released.items()), report.faults)
        report.events = hashlib.sha256(repr(seen).encode()).hexdigest()

    def _set_up(self, folder: Path) -> None:
        self._config = self._gateway_config(folder)
        issuer = Ed25519PrivateKey.from_private_bytes(Path(self._config.issuer_key).read_bytes())
        self._policy = policy = self._settings.policy(
            b64url(issuer.public_key().public_bytes_raw())
        )
        initial = np.zeros(SIZE, np.float32)
        self._truth = Truth(
            Terms(
                self._settings.recipe,
                Limits(policy.max_staleness, policy.max_norm, policy.max_examples),
                rule_of(policy),
                policy.digest,
                f"asynclave-gateway:{self._settings.federation}",
            ),
            initial,
        )
        self._note_token_key()
        self._gateway_clock = ProcessClock(self._actors)
        self._platform_clock = ProcessClock(self._actors)
        self._gateway_disk = SimulatedDisk(self._chance, self._truth.seen)
        self._platform = Platform(self._chance, self._truth, policy, self._platform_clock)
        self._network = Network(self._actors, self._chance, self._truth, self._gateway_clock)
        world = World(self._actors, self._chance, self._truth, self._network)
        self._world = world
        self._server = Server(
            self._bundle(ServerConfig, "server"), self._settings.recipe, initial, world
        )
        self._nodes = [
            Node(
                f"node-{number}",
                self._bundle(ClientConfig, f"node-{number}"),
                world,
                lambda: self._server.task,
                self._server.deliver,
            )
            for number in range(_NODES)
        ]
        self._start_gateway()
        self._actors.add(self._operate)
        self._actors.add(self._server.live)
        for node in self._nodes:
            self._actors.add(node.live)

    def _gateway_config(self, folder: Path) -> GatewayConfig:
        for name in ("issuer", "token"):
            (folder / f"{name}.key").write_bytes(self._rng.bytes(32))
        return GatewayConfig(
            federation=self._settings.federation,
            host="",
            port=0,
            tls_certificate="",
            tls_key="",
            issuer_key=str(folder / "issuer.key"),
            token_key=str(folder / "token.key"),
            registry=str(folder / "registry"),
            audit_log="",
            launcher_socket="/launcher",
            hop_key="",
            port_file="",
        )

    def _bundle(self, kind: type[_Config], name: str) -> _Config:
        role = "server" if kind is ServerConfig else "client"
        with open_registry(self._config.registry) as registry:
            ticket = create_ticket(registry, role, name, clock=self._gateway_clock, rng=self._rng)
        bundle = self._settings.bundle(
            gateway="gateway:1",
            ca_pem="",
            identity_dir=f"/{name}",
            ticket=ticket,
            root_pem=self._platform.root_pem,
            measurement=MEASUREMENT,
            policy=self._policy,
        )
        return kind(**{each.name: getattr(bundle, each.name) for each in fields(bundle)})

    def _operate(self) -> None:
        """Keep the gateway alive, try what strangers would, and look; then end the world."""
        next_look = 0.0
        while self._actors.elapsed < self._seconds:
            self._require_progress()
            self._actors.sleep(_TURN)
            self._truth.check()
            self._revive_gateway()
            self._network.replay()
            self._try_once_a_minute()
            if self._actors.elapsed >= next_look:
                self._look()
                next_look = self._actors.elapsed + _LOOK_SECONDS
        self._chance.active = False
        self._recover()
        self._look()
        self._server.check_records(self._platform.receipt_keys)
        self._actors.end()

    def _recover(self) -> None:
        version, self._progress = self._truth.version, self._actors.elapsed
        while self._truth.version == version:
            self._require_progress()
            self._actors.sleep(_TURN)
            self._revive_gateway()
        self._actors.sleep(_QUIET_SECONDS)

    def _require_progress(self) -> None:
        """I10: a new version, now and then, whatever fails."""
        if self._truth.version != self._newest:
            self._newest, self._progress = self._truth.version, self._actors.elapsed
        elif self._actors.elapsed - self._progress > _PATIENCE_SECONDS:
            raise Violation(f"I10: no version for {_PATIENCE_SECONDS:g} s")

    def _look(self) -> None:
        self._truth.settled({node.name: node.kept() for node in self._nodes})

    def _revive_gateway(self) -> None:
        gateway = self._network.gateway
        if gateway is not None and not gateway.dead:
            return
        if self._gateway_disk.dead:
            self._world.restart(self._gateway_disk)
        self._start_gateway()

    def _start_gateway(self) -> None:
        try:
            self._network.gateway = Gateway(
                self._config,
                self._platform,
                self._gateway_disk,
                self._chance,
                self._gateway_clock,
            )
        except Crash:
            return
        except AsynclaveError as error:
            if error.code == Code.JOURNAL_DAMAGED:
                raise Violation(f"R: the gateway cannot be started: {error}") from error
        finally:
            self._truth.check()

    def _try_once_a_minute(self) -> None:
        rng = self._chance.rng
        if rng.random() >= _TURN / 60:
            return
        if self._chance.strikes("rotation"):
            rotate(Path(self._config.token_key), self._rng)
            self._note_token_key()
        if self._chance.strikes("used_ticket"):
            self._try_a_used_ticket()
        if self._chance.strikes("clock_step"):
            server = self._server.clock
            # Gateway and platform are processes of one machine, which may have the server, too.
            host = (self._gateway_clock, self._platform_clock)
            machines = [host, (*host, server), (server,), *((n.clock,) for n in self._nodes)]
            low, high = map(math.log, _STEP_SECONDS)
            step = rng.choice((-1.0, 1.0)) * math.exp(rng.uniform(low, high))
            clocks = rng.choice(machines)
            _set(clocks, step)
            self._actors.add(lambda: self._set_right(clocks, rng.uniform(*_STEP_LASTS)))

    def _set_right(self, clocks: Sequence[ProcessClock], after: float) -> None:
        self._actors.sleep(after)
        _set(clocks, 0.0)

    def _note_token_key(self) -> None:
        key = Ed25519PrivateKey.from_private_bytes(Path(self._config.token_key).read_bytes())
        self._truth.token_keys = [key.public_key(), *self._truth.token_keys[:1]]

    def _try_a_used_ticket(self) -> None:
        redeemed = [ticket for node in self._nodes if (ticket := node.ticket)]
        if not redeemed:
            return
        identity, clock = Identity.generate(self._rng), ProcessClock(self._actors)
        disk, ticket = SimulatedDisk(self._chance), self._chance.rng.choice(redeemed)
        wire = SimulatedWire(self._network, disk, self._chance, identity, clock, self._rng)
        request = pb.EnrolRequest(
            ticket=ticket,
            identity_key=identity.public_identity_key,
            proof_key=identity.public_proof_key,
            signature=identity.sign_enrolment(ticket),
        )
        try:
            wire.invoke("Enrol", request, lambda reply: reply, None)
        except (AsynclaveError, Crash):
            return
        raise Violation("I12: a ticket is redeemed by two")


def _set(clocks: Sequence[ProcessClock], offset: float) -> None:
    for clock in clocks:
        clock.set(offset)
