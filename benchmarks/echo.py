"""The least a gRPC server can do over mutual TLS: ``python -m benchmarks.echo FOLDER``.

The folder holds ``key.pem``, ``chain.pem`` and ``ca.pem``; ``port`` is written to it once the
server serves. ``/echo/echo`` answers with the message, ``/echo/sink`` with nothing.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

_UNBOUNDED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]


async def serve(folder: Path) -> None:
    """Serve until the process ends."""
    server = aio.server(options=_UNBOUNDED)
    handlers = {
        "echo": grpc.unary_unary_rpc_method_handler(_echo),
        "sink": grpc.unary_unary_rpc_method_handler(_sink),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
    pair = ((folder / "key.pem").read_bytes(), (folder / "chain.pem").read_bytes())
    authority = (folder / "ca.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    (folder / "port.part").write_text(str(port))
    (folder / "port").hardlink_to(folder / "port.part")
    await server.wait_for_termination()


def channel(folder: Path) -> aio.Channel:
    """Return a channel to the server of a folder, with the server's own pair as the client's."""
    key, chain, authority = (
        (folder / f"{name}.pem").read_bytes() for name in ("key", "chain", "ca")
    )
    credentials = grpc.ssl_channel_credentials(authority, key, chain)
    port = (folder / "port").read_text()
    return aio.secure_channel(f"localhost:{port}", credentials, _UNBOUNDED)


async def _echo(message: bytes, context: Any) -> bytes:
    return message


async def _sink(message: bytes, context: Any) -> bytes:
    return b""


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
