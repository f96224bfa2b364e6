"""Gateway and simulated enclave on one machine: keys, processes, and bundles for the nodes."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from fl_protocol.codes import AsynclaveError, Code, error_for
from fl_protocol.ports import Clock, Rng, SystemClock, SystemRng
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.issuer import create_ticket
from fl_server.gateway.registry import open_registry
from fl_server.gateway.token_keys import rotate
from fl_server.intake.config import ServerConfig
from fl_server.stack.gateways import StackGateway
from fl_server.stack.keys import HOP_KEY, ISSUER_KEY, TOKEN_KEY, create_keys
from fl_server.stack.pki import ServerCertificate, create_server_certificate
from fl_server.stack.platform import StackPlatform
from fl_server.stack.processes import Child
from fl_server.stack.settings import StackSettings

_HOST = "127.0.0.1"
_HOSTS = ("localhost", _HOST, "::1")
_START_PATIENCE = 30.0


class LocalStack:
    """Launcher, enclave and gateways as child processes; none outlives this process.

    Parameters
    ----------
    state_dir : Path
        Receives keys, registry, logs and bundles; created when missing.
    settings : StackSettings, optional
        The enclave's policy and the gateway's bounds.
    gateway_port : int
        Port of the first gateway; 0 lets the kernel choose, as it does for the others.
    gateway_module : str
        Module that is run as a gateway, with the path of its configuration.
    clock, rng : Clock, Rng, optional
        The system's by default.

    Attributes
    ----------
    gateways : tuple of StackGateway
        None before the stack is started.

    Examples
    --------
    >>> with LocalStack(Path("state")) as stack:  # doctest: +SKIP
    ...     bundle = stack.client_config("node-1")
    """

    def __init__(
        self,
        state_dir: Path,
        settings: StackSettings | None = None,
        *,
        gateway_port: int = 0,
        gateway_module: str = "fl_server.gateway",
        clock: Clock | None = None,
        rng: Rng | None = None,
    ) -> None:
        self.state_dir = state_dir.resolve()
        self.settings = settings or StackSettings()
        self._clock, self._rng = clock or SystemClock(), rng or SystemRng()
        self._port, self._gateway_module = gateway_port, gateway_module
        self._launcher: Child | None = None
        self.gateways: tuple[StackGateway, ...] = ()
        self._platform: StackPlatform | None = None
        self._certificate: ServerCertificate

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Create keys and start the processes; returns when all gateways serve.

        Raises
        ------
        GatewayUnavailable
            A process did not come up; the sentence ends with its log's last lines.
        """
        if self.gateways:
            return
        try:
            self._create_keys()
            self._start_launcher()
            self._make_gateways()
            for gateway in self.gateways:
                gateway.start()
            self._port = int(self.address.rpartition(":")[2])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the processes and the enclave; calling it again does nothing."""
        for gateway in self.gateways:
            gateway.stop()
        if self._launcher is not None:
            self._launcher.stop()
        self.gateways, self._launcher = (), None
        if self._platform is not None:
            self._platform.close()

    def restart_gateway(self) -> None:
        """Start the first gateway again on its port, ending it first if it still runs.

        Its successor attaches to the same enclave, which has kept what it had buffered.
        """
        self._first.start()

    def restart_launcher(self) -> None:
        """Start the launcher again, ending it and its enclave first if they still run."""
        _running(self._launcher).stop()
        self._files.socket_path.unlink(missing_ok=True)
        self._start_launcher()

    @property
    def address(self) -> str:
        """The first gateway's "host:port"."""
        return self._first.address

    @property
    def ca_pem(self) -> bytes:
        """Certificate of the authority behind the gateway's certificate."""
        return self._certificate.ca.read_bytes()

    @property
    def journal_dir(self) -> Path:
        """Folder of the first gateway's journal."""
        return self.state_dir / "journal"

    @property
    def gateway_pid(self) -> int:
        """Process id of the first gateway."""
        return self._first.pid

    @property
    def launcher_pid(self) -> int:
        """Process id of the launcher."""
        return _running(self._launcher).pid

    @property
    def enclave_pid(self) -> int:
        """Process id of the present enclave.

        Raises
        ------
        AsynclaveError
            ENCLAVE_UNAVAILABLE when there is none at the moment.
        """
        return self._files.enclave_pid()

    def ticket(self, role: str, name: str) -> str:
        """Create a single-use enrolment ticket for a "client" or "server"."""
        with open_registry(self._registry_location) as registry:
            return create_ticket(registry, role, name, clock=self._clock, rng=self._rng)

    def revoke(self, kind: str, value: str) -> None:
        """Revoke as `Registry.revoke` does; the gateway refuses it from the next call on."""
        with open_registry(self._registry_location) as registry:
            registry.revoke(kind, value)

    def rotate_token_key(self) -> None:
        """Sign access tokens with a new key from now on; those issued before stay valid."""
        rotate(self.state_dir / TOKEN_KEY, self._rng)

    def client_config(self, name: str) -> Path:
        """Write the bundle of a client and return its path.

        Parameters
        ----------
        name : str
            Beginning of its client id.
        """
        return self._bundle("client", name)

    def server_config(self, name: str = "server", records: Path | None = None) -> Path:
        """Write the bundle of a server and return its path; `records` as in `ServerConfig`."""
        path = self._bundle("server", name)
        if records is not None:
            replace(ServerConfig.load(path), records_dir=str(records.resolve())).save(path)
        return path

    @property
    def _first(self) -> StackGateway:
        if not self.gateways:
            raise _not_started()
        return self.gateways[0]

    @property
    def _files(self) -> StackPlatform:
        if self._platform is None:
            raise _not_started()
        return self._platform

    @property
    def _registry_location(self) -> str:
        return self.settings.registry or str(self.state_dir / "registry.sqlite")

    def _bundle(self, role: str, name: str) -> Path:
        folder = self.state_dir / "nodes" / name
        path = folder / f"{role}.json"
        config = self.settings.bundle(
            gateway=self.address,
            ca_pem=self.ca_pem.decode(),
            identity_dir=str(folder / "identity"),
            ticket=self.ticket(role, name),
            root_pem=self._files.root_pem,
            measurement=self._files.measurement,
            policy=self._files.policy,
        )
        config.save(path)
        return path

    def _create_keys(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        now = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)
        self._certificate = create_server_certificate(self.state_dir, _HOSTS, now)
        policy = self.settings.policy(create_keys(self.state_dir, self._rng))
        self._platform = StackPlatform(
            self.state_dir / "platform", policy, self.state_dir / HOP_KEY
        )
        with open_registry(self._registry_location):
            pass

    def _start_launcher(self) -> None:
        self._launcher = self._spawn("launcher", "tee_sim.launcher", self._files.config_path)
        self._launcher.wait_until(self._files.ready, _START_PATIENCE, self._clock)

    def _make_gateways(self) -> None:
        common = GatewayConfig(
            federation=self.settings.federation,
            host=_HOST,
            port=self._port,
            tls_certificate=str(self._certificate.certificate),
            tls_key=str(self._certificate.key),
            issuer_key=str(self.state_dir / ISSUER_KEY),
            token_key=str(self.state_dir / TOKEN_KEY),
            registry=self._registry_location,
            audit_log="",
            launcher_socket=str(self._files.socket_path),
            hop_key=str(self.state_dir / HOP_KEY),
            port_file="",
            journal_dir=str(self.journal_dir) if self.settings.journal else "",
            token_ttl=self.settings.token_ttl,
            limits=self.settings.limits,
            behind_proxy=self.settings.behind_proxy,
            parent_pid=os.getpid(),
        )
        # Only the first listens where it was told to.
        self.gateways = tuple(
            StackGateway(
                index,
                self.state_dir,
                replace(common, port=0) if index else common,
                self.ca_pem,
                self._clock,
                self._gateway_module,
            )
            for index in range(self.settings.gateways)
        )

    def _spawn(self, name: str, module: str, config: Path) -> Child:
        return Child(name, module, config, self.state_dir / f"{name}.log")


def _running(child: Child | None) -> Child:
    if child is None:
        raise _not_started()
    return child


def _not_started() -> AsynclaveError:
    return error_for(Code.GATEWAY_UNAVAILABLE, "the stack is not started; call start() first")
