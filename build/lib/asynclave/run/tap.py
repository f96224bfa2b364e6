"""A recording wire: forwards TCP to the gateway and writes every byte that crosses it to files.

Runs as a process of its own (``python -m asynclave.run.tap CONFIG.json``) so that forwarding does
not compete with training, and ends with its parent. The port it listens on is in
``DIRECTORY/port``, what crossed it in ``up.bin`` and ``down.bin``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from fl_protocol.ports import LocalDisk

_READ = 256 << 10


@dataclass(frozen=True)
class TapConfig:
    """Where to forward to, where to record, and whose end to follow."""

    target: str
    directory: str
    parent_pid: int

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> TapConfig:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: BinaryIO
) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_READ):
            record.write(data)
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        writer.close()


async def _serve(config: TapConfig) -> None:
    host, port = config.target.rsplit(":", 1)
    directory = Path(config.directory)
    # Unbuffered: whoever searches the files must find every byte that was forwarded.
    with (
        (directory / "up.bin").open("wb", buffering=0) as up,
        (directory / "down.bin").open("wb", buffering=0) as down,
    ):

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
            except OSError:
                writer.close()
                return
            await asyncio.gather(
                _forward(reader, far_writer, up), _forward(far_reader, writer, down)
            )

        orphaned = asyncio.Event()
        asyncio.get_running_loop().add_reader(os.pidfd_open(config.parent_pid), orphaned.set)
        server = await asyncio.start_server(connect, "127.0.0.1", 0, limit=_READ)
        chosen = server.sockets[0].getsockname()[1]
        LocalDisk().write_atomic(directory / "port", str(chosen).encode())
        await orphaned.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(TapConfig.load(Path(sys.argv[1]))))
