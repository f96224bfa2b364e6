"""Assemble and run one gateway process."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import uvloop
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.ports import Clock, LocalDisk, Rng, SystemClock, SystemRng
from fl_protocol.proto.gateway_pb2_grpc import add_GatewayServicer_to_server
from fl_protocol.storage import write_private
from fl_server.gateway.assembly import admission
from fl_server.gateway.audit import AuditLog
from fl_server.gateway.auth import Gatekeeper
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.database import Database
from fl_server.gateway.enclave_link import EnclaveLink
from fl_server.gateway.registry import Registry
from fl_server.gateway.service import GatewayService
from fl_server.gateway.shared_memory import Refusals
from fl_server.gateway.submissions import open_submissions
from tee_sim.allocator import keep_freed_memory
from tee_sim.control import LauncherClient
from tee_sim.hop import HopSigner
from tee_sim.lifetime import stop_event
from tee_sim.settings import load_key

# One segment (1 MiB and its tag) plus framing; streams carry larger bodies in pieces.
_MAX_MESSAGE = 2 * 1024 * 1024
_MAX_METADATA = 8 * 1024
_STOP_GRACE = 2.0
# Calls that wait for the registry must not keep the journal waiting.
_THREADS = 32


async def serve(config: GatewayConfig, clock: Clock, rng: Rng) -> None:
    """Serve until SIGTERM or SIGINT, then finish calls under way for two seconds.

    Parameters
    ----------
    config : GatewayConfig
        Settings.
    clock, rng : Clock, Rng
        Time and randomness.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    database = Database(config.registry)
    audit = AuditLog(Path(config.audit_log))
    hop_key = load_key(Path(config.hop_key))
    launcher = LauncherClient(Path(config.launcher_socket), HopSigner(hop_key, clock, rng))
    link = EnclaveLink(launcher)
    admitted = admission(config, database, audit, hop_key, clock, rng)
    try:
        async with open_submissions(
            link,
            config.journal_dir,
            LocalDisk(),
            rng,
            Registry(database),
            Refusals(database, clock),
        ) as submissions:
            service = GatewayService(admitted.issuer, link, submissions, config.limits)
            status = health.aio.HealthServicer()
            server = _server(service, admitted.gatekeeper, status)
            port = _listen(server, config)
            stopped = stop_event(config.parent_pid)
            await link.attach()
            # Before anybody is served, so that a repeated update finds its first receipt.
            await submissions.finish_left_over(audit)
            await server.start()
            try:
                await status.set("", health_pb2.HealthCheckResponse.SERVING)
                write_private(LocalDisk(), Path(config.port_file), str(port).encode())
                await stopped.wait()
                await status.enter_graceful_shutdown()
            finally:
                await server.stop(_STOP_GRACE)
    finally:
        await link.close()
        audit.close()
        database.close()


def run(path: Path, clock: Clock | None = None) -> None:
    """Run the gateway a configuration file describes until it is told to stop.

    Parameters
    ----------
    path : Path
        The configuration.
    clock : Clock, optional
        The system's by default.
    """
    keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(GatewayConfig.load(path), clock or SystemClock(), SystemRng()))


def _server(
    service: GatewayService, gatekeeper: Gatekeeper, status: health.aio.HealthServicer
) -> aio.Server:
    server = aio.server(
        interceptors=(gatekeeper,),
        maximum_concurrent_rpcs=1024,
        options=(
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ("grpc.max_metadata_size", _MAX_METADATA),
            ("grpc.so_reuseport", 0),
        ),
    )
    add_GatewayServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    return server


def _listen(server: aio.Server, config: GatewayConfig) -> int:
    address = f"{config.host}:{config.port}"
    try:
        return int(server.add_secure_port(address, _credentials(config)))
    except (RuntimeError, OSError) as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"The gateway cannot listen on {address}: {error}"
        ) from None


def _credentials(config: GatewayConfig) -> grpc.ServerCredentials:
    # gRPC would say no more of a key that does not fit than that it cannot bind.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_certificate, config.tls_key)
    key = Path(config.tls_key).read_bytes()
    return grpc.ssl_server_credentials([(key, Path(config.tls_certificate).read_bytes())])
