"""A recording wire: forwards TCP to the gateway and writes every byte that crosses it to files.

Runs as a process of its own (``python -m asynclave.run.tap HOST:PORT DIRECTORY``) so that
forwarding does not compete with training. The port it listens on is in ``DIRECTORY/port``.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import BinaryIO

from fl_protocol.ports import LocalDisk

_READ = 256 << 10


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: BinaryIO
) -> None:
    with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        while data := await reader.read(_READ):
            record.write(data)
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError, OSError):
        writer.close()


async def _serve(target: str, directory: Path) -> None:
    host, port = target.rsplit(":", 1)
    with (directory / "up.bin").open("wb") as up, (directory / "down.bin").open("wb") as down:

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
            except OSError:
                writer.close()
                return
            await asyncio.gather(
                _forward(reader, far_writer, up), _forward(far_reader, writer, down)
            )

        server = await asyncio.start_server(connect, "127.0.0.1", 0, limit=_READ)
        port = server.sockets[0].getsockname()[1]
        LocalDisk().write_atomic(directory / "port", str(port).encode())
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1], Path(sys.argv[2])))
