"""A gateway of a stack as a child process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fl_protocol.ports import Clock
from fl_server.gateway.config import GatewayConfig
from fl_server.stack.processes import Child

_START_PATIENCE = 30.0


class StackGateway:
    """Keeps its port when it is started again.

    Parameters
    ----------
    index : int
        Of this gateway among those of the stack; its files carry the number, but for the first's.
    folder : Path
        Receives its files: settings, log, audit log, journal.
    config : GatewayConfig
        What all gateways of the stack have in common; files of its own are filled in here.
    ca_pem : bytes
        Authority of its certificate.
    clock : Clock
        Time source.
    module : str
        Module to run, with the path of its configuration.
    """

    def __init__(
        self,
        index: int,
        folder: Path,
        config: GatewayConfig,
        ca_pem: bytes,
        clock: Clock,
        module: str = "fl_server.gateway",
    ) -> None:
        suffix = f"-{index}" if index else ""
        self._folder, self._name = folder, f"gateway{suffix}"
        self._ca_pem, self._clock, self._module = ca_pem, clock, module
        self.audit_log = folder / f"audit{suffix}.jsonl"
        self._config = replace(
            config,
            audit_log=str(self.audit_log),
            port_file=str(folder / f"{self._name}.port"),
            journal_dir=config.journal_dir and config.journal_dir + suffix,
        )
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """Its "host:port"; the port is 0 before it has started."""
        return f"{self._config.host}:{self._config.port}"

    @property
    def pid(self) -> int:
        """Process id; raises LookupError unless it was started."""
        if self._child is None:
            raise LookupError(f"{self._name} was not started")
        return self._child.pid

    def start(self) -> None:
        """Start it, ending it first if it runs; returns when it serves.

        Raises
        ------
        GatewayUnavailable
            It did not come up; the sentence ends with its log's last lines.
        """
        self.stop()
        port_file = Path(self._config.port_file)
        port_file.unlink(missing_ok=True)
        path = self._folder / f"{self._name}.json"
        self._config.save(path)
        log = self._folder / f"{self._name}.log"
        child = self._child = Child(self._name, self._module, path, log)
        child.wait_until(port_file.exists, _START_PATIENCE, self._clock)
        self._config = replace(self._config, port=int(port_file.read_text()))
        child.wait_until(self._healthy, _START_PATIENCE, self._clock)

    def stop(self) -> None:
        """End it if it runs."""
        if self._child is not None:
            self._child.stop()

    def _healthy(self) -> bool:
        credentials = grpc.ssl_channel_credentials(self._ca_pem)
        options = [("grpc.enable_http_proxy", 0)]
        with grpc.secure_channel(self.address, credentials, options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
