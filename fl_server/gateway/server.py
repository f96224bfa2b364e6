"""Assemble and run one gateway process."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fl_protocol.ports import Clock, LocalDisk, Rng, SystemClock, SystemRng
from fl_protocol.proof import ProofVerifier
from fl_protocol.proto.gateway_pb2_grpc import add_GatewayServicer_to_server
from fl_server.gateway.audit import AuditLog
from fl_server.gateway.auth import Authenticator, Gatekeeper
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.enclave_link import EnclaveLink
from fl_server.gateway.issuer import Issuer
from fl_server.gateway.limits import RateLimiter
from fl_server.gateway.registry import Registry
from fl_server.gateway.service import GatewayService

# One segment (1 MiB and its tag) plus framing; streams carry larger bodies in pieces.
_MAX_MESSAGE = 2 * 1024 * 1024
_MAX_METADATA = 8 * 1024
_STOP_GRACE = 2.0


async def serve(config: GatewayConfig, clock: Clock, rng: Rng) -> None:
    """Serve until SIGTERM or SIGINT, then finish calls under way for two seconds.

    Parameters
    ----------
    config : GatewayConfig
        Settings.
    clock, rng : Clock, Rng
        Time and randomness.
    """
    registry = Registry(Path(config.registry))
    audit = AuditLog(Path(config.audit_log))
    link = EnclaveLink(Path(config.launcher_socket))
    issuer = Issuer(
        config,
        registry,
        membership_key=_key(config.issuer_key),
        token_key=_key(config.token_key),
        clock=clock,
        rng=rng,
    )
    gatekeeper = Gatekeeper(
        Authenticator(issuer.verifier(), ProofVerifier(clock), registry),
        RateLimiter(config.limits.rate, config.limits.burst, clock),
        audit,
    )
    server = aio.server(
        interceptors=(gatekeeper,),
        maximum_concurrent_rpcs=1024,
        options=(
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ("grpc.max_metadata_size", _MAX_METADATA),
            ("grpc.so_reuseport", 0),
        ),
    )
    service = GatewayService(issuer, link, config.limits)
    add_GatewayServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    port = server.add_secure_port(f"{config.host}:{config.port}", _credentials(config))
    stopped = _stop_signal(config.parent_pid)
    await link.attach()
    await server.start()
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    LocalDisk().write_atomic(Path(config.port_file), str(port).encode())
    try:
        await stopped.wait()
        await status.enter_graceful_shutdown()
        await server.stop(_STOP_GRACE)
    finally:
        await link.close()
        audit.close()
        registry.close()


def run(path: Path) -> None:
    """Run the gateway a configuration file describes until it is told to stop."""
    asyncio.run(serve(GatewayConfig.load(path), SystemClock(), SystemRng()))


def _stop_signal(parent_pid: int | None) -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if parent_pid is not None:
        try:
            # Unlike a parent-death signal, a process handle is not bound to the thread that
            # started this process.
            loop.add_reader(os.pidfd_open(parent_pid), stopped.set)
        except ProcessLookupError:
            stopped.set()
    return stopped


def _credentials(config: GatewayConfig) -> grpc.ServerCredentials:
    key = Path(config.tls_key).read_bytes()
    return grpc.ssl_server_credentials([(key, Path(config.tls_certificate).read_bytes())])


def _key(path: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(Path(path).read_bytes())
