"""Frames on the stream socket between gateway and enclave.

::

    frame = header length (4 bytes, big-endian) || header (canonical JSON object)
            || body length (8 bytes, big-endian) || body

A request's header names an operation in ``op``; a reply's header says ``ok`` and, when false,
``code`` and ``sentence``. Every length is bounded before anything of that size is allocated.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.ports import Chunk

MAX_HEADER_BYTES = 8 << 20
MAX_BODY_BYTES = 8 << 30
# What a gateway may cost the others: see `Channel`.
STALL_SECONDS, LEAST_BYTES_PER_SECOND = 10, 32 << 20

HEADER_LENGTH = struct.Struct(">I")
BODY_LENGTH = struct.Struct(">Q")
_DISCARD_BYTES = 1 << 16


class ChannelClosed(Exception):
    """The peer is gone, or sent something that is not a frame; the channel is of no more use."""


def encode_head(header: dict[str, Any], body_length: int) -> bytes:
    """Return a frame up to its body; raises CanonicalError for a header no peer would take."""
    encoded = canonical.encode(header)
    if len(encoded) > MAX_HEADER_BYTES:
        raise CanonicalError(f"longer than {MAX_HEADER_BYTES} bytes")
    return HEADER_LENGTH.pack(len(encoded)) + encoded + BODY_LENGTH.pack(body_length)


def decode_header(data: bytes) -> dict[str, Any]:
    """Read a frame's header; raises ChannelClosed."""
    try:
        return canonical.decode_object(data, MAX_HEADER_BYTES)
    except CanonicalError as error:
        raise ChannelClosed("unreadable frame header") from error


def checked_length(length: int, bound: int) -> int:
    """Return a length within its bound; raises ChannelClosed."""
    if length > bound:
        raise ChannelClosed(f"frame of {length} bytes is longer than {bound}")
    return length


class Body:
    """The body of a request, read by its consumer straight to where it belongs."""

    def __init__(self, stream: socket.socket, length: int, until: float | None = None) -> None:
        self._stream, self._until = stream, until
        self.remaining = length

    def read(self, scratch: memoryview) -> memoryview:
        """Return as many bytes as `scratch` has room for, there or where they are already.

        Raises ValueError past the end of the body.
        """
        self.read_into(scratch)
        return scratch

    def read_into(self, target: memoryview) -> None:
        """Fill a writable view of bytes; raises ValueError past the end of the body."""
        if len(target) > self.remaining:
            raise ValueError("the body is shorter than asked for")
        receive_into(self._stream, target, self._until)
        self.remaining -= len(target)

    def discard(self) -> None:
        """Skip what was not read, so that the next frame can be."""
        scratch = memoryview(bytearray(min(_DISCARD_BYTES, self.remaining)))
        while self.remaining:
            self.read_into(scratch[: min(len(scratch), self.remaining)])


@dataclass(frozen=True)
class Request:
    """One request: its header and a body to read from."""

    header: dict[str, Any]
    body: Body


class Channel:
    """The blocking end of a channel.

    Parameters
    ----------
    stream : socket.socket
        Connected stream socket in blocking mode.
    patience : float, optional
        Seconds that the peer has for each frame, besides the time its body takes at
        `LEAST_BYTES_PER_SECOND`. It is looked at between system calls, so the socket needs timeouts
        of its own. Without limit by default.
    """

    def __init__(self, stream: socket.socket, patience: float | None = None) -> None:
        self._stream, self._patience = stream, patience

    def receive(self) -> Request:
        """Wait for the next frame; its body must be read or discarded before the next call.

        Raises
        ------
        ChannelClosed
            The peer is gone or too slow, or the frame is out of bounds.
        """
        until = self._deadline(0)
        header_length = checked_length(self._length(HEADER_LENGTH, until), MAX_HEADER_BYTES)
        header = bytearray(header_length)
        receive_into(self._stream, memoryview(header), until)
        body_length = checked_length(self._length(BODY_LENGTH, until), MAX_BODY_BYTES)
        body = Body(self._stream, body_length, self._deadline(body_length))
        return Request(decode_header(bytes(header)), body)

    def send(self, header: dict[str, Any], body: Chunk = b"") -> None:
        """Send one frame; raises ChannelClosed."""
        until = self._deadline(len(body))
        for part in (encode_head(header, len(body)), body):
            rest = memoryview(part).cast("B")
            while len(rest):
                try:
                    rest = rest[self._stream.send(rest) :]
                except OSError as error:
                    raise ChannelClosed("the peer is gone") from error
                if len(rest):
                    _check_time(until)

    def _length(self, form: struct.Struct, until: float | None) -> int:
        prefix = bytearray(form.size)
        receive_into(self._stream, memoryview(prefix), until)
        return int(form.unpack(prefix)[0])

    def _deadline(self, body_length: int) -> float | None:
        if self._patience is None:
            return None
        return time.monotonic() + self._patience + body_length / LEAST_BYTES_PER_SECOND


def receive_into(stream: socket.socket, target: memoryview, until: float | None = None) -> None:
    """Fill a buffer from a blocking socket; raises ChannelClosed, also when time has run out."""
    while len(target):
        try:
            count = stream.recv_into(target, flags=socket.MSG_WAITALL)
        except OSError as error:
            raise ChannelClosed("the peer is gone") from error
        if not count:
            raise ChannelClosed("the peer closed the channel")
        target = target[count:]
        if len(target):
            _check_time(until)


def _check_time(until: float | None) -> None:
    if until is not None and time.monotonic() > until:
        raise ChannelClosed("the peer is too slow")
