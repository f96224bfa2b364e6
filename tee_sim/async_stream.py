"""A connected stream socket on the event loop, without copies beyond the kernel's.

asyncio's own streams keep what the kernel does not take at once in a buffer that is shifted with
every piece sent, and put together what they receive from pieces.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from fl_protocol.ports import Chunk

# Buffers in one system call; IOV_MAX is 1024 on Linux.
_AT_ONCE = 64
# More than any reply but a release.
_AHEAD_BYTES = 1 << 16


class AsyncStream:
    """One reader and one writer at a time.

    Parameters
    ----------
    connection : socket.socket
        Connected stream socket; becomes non-blocking, and is closed by `close`.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket, self._ahead = connection, b""

    def ended(self) -> bool:
        """Whether the peer is gone, or this side is closed; only while nothing is being read."""
        try:
            return not self._ahead and not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def send(self, buffers: Sequence[Chunk]) -> None:
        """Send buffers in order; raises OSError."""
        waiting = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        waiting.reverse()
        while waiting:
            try:
                sent = self._socket.sendmsg(waiting[: -_AT_ONCE - 1 : -1])
            except BlockingIOError:
                await self._writable()
                continue
            while waiting and sent >= len(waiting[-1]):
                sent -= len(waiting.pop())
            if sent:
                waiting[-1] = waiting[-1][sent:]

    async def read(self, count: int) -> bytes | bytearray:
        """Return exactly so many bytes; raises EOFError or OSError."""
        if not self._ahead and 0 < count < _AHEAD_BYTES:
            self._ahead = await self._some()
        if count <= len(self._ahead):
            data, self._ahead = self._ahead[:count], self._ahead[count:]
            return data
        whole = bytearray(count)
        whole[: len(self._ahead)] = self._ahead
        rest, self._ahead = memoryview(whole)[len(self._ahead) :], b""
        loop = asyncio.get_running_loop()
        while rest:
            received = await loop.sock_recv_into(self._socket, rest)
            if not received:
                raise EOFError("the peer closed the connection")
            rest = rest[received:]
        return whole

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def _some(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self._socket, _AHEAD_BYTES)
        if not data:
            raise EOFError("the peer closed the connection")
        return data

    async def _writable(self) -> None:
        loop, number = asyncio.get_running_loop(), self._socket.fileno()
        ready = loop.create_future()
        loop.add_writer(number, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_writer(number)


def _resolve(ready: asyncio.Future[None]) -> None:
    # Level-triggered: it may fire again before the waiting task has run.
    if not ready.done():
        ready.set_result(None)
