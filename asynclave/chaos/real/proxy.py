"""A TCP proxy that delays, cuts off, swallows and slows down what passes through it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from enum import StrEnum

_CHUNK = 16 * 1024
_DELAY_SECONDS, _SLOW_BYTES, _SLOW_SECONDS = 0.2, 512, 0.02


class Mood(StrEnum):
    """What the proxy does to a connection's bytes."""

    CLEAR = "clear"
    DELAY = "delay"
    CUT = "cut"
    BLACK_HOLE = "black hole"
    SLOW = "slow"


class FaultProxy:
    """Forwards a loopback port to another one, on a thread of its own.

    Parameters
    ----------
    target : int
        Port to forward to.

    Attributes
    ----------
    mood : Mood
        May be changed at any time; `Mood.CUT` cuts connections in the middle of what they send.
    port : int
        Where it listens.
    """

    def __init__(self, target: int) -> None:
        self.mood = Mood.CLEAR
        self._listeners = [socket.create_server(("127.0.0.1", 0))]
        self.port = int(self._listeners[0].getsockname()[1])
        self._target = target
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._ready = threading.Event()
        self._open: set[asyncio.StreamWriter] = set()
        # `asyncio.run` cancels whatever is under way in the end.
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def listen_on(self, listener: socket.socket) -> None:
        """Also take connections from another listening socket; to be called before `start`."""
        self._listeners.append(listener)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        """Stop listening, and cut off every connection."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def hang_up(self) -> None:
        """Cut off every connection."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _listen(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as servers:
            for listener in self._listeners:
                await servers.enter_async_context(
                    await asyncio.start_server(self._serve, sock=listener)
                )
            self._ready.set()
            await self._stopping.wait()
            self._abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        writers = (writer, there[1])
        self._open.update(writers)
        try:
            await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))
        finally:
            for end in writers:
                self._open.discard(end)
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._pass_on(data, writer)
            if writer.can_write_eof():
                writer.write_eof()

    async def _pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        mood = self.mood
        if mood is Mood.BLACK_HOLE:
            return
        if mood is Mood.DELAY:
            await asyncio.sleep(_DELAY_SECONDS)
        if mood is Mood.CUT:
            writer.write(data[: random.randint(0, len(data))])
            self._abort()
            return
        if mood is Mood.SLOW:
            for start in range(0, len(data), _SLOW_BYTES):
                await _write(writer, data[start : start + _SLOW_BYTES])
                await asyncio.sleep(_SLOW_SECONDS)
        else:
            await _write(writer, data)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise ConnectionResetError
    writer.write(data)
    await writer.drain()
