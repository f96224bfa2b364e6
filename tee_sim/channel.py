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
from dataclasses import dataclass
from typing import Any

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.ports import Chunk

MAX_HEADER_BYTES = 8 << 20
MAX_BODY_BYTES = 8 << 30

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

    def __init__(self, stream: socket.socket, length: int) -> None:
        self._stream = stream
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
        receive_into(self._stream, target)
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
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def receive(self) -> Request:
        """Wait for the next frame; its body must be read or discarded before the next call.

        Raises
        ------
        ChannelClosed
            The peer is gone or the frame is out of bounds.
        """
        header_length = checked_length(self._length(HEADER_LENGTH), MAX_HEADER_BYTES)
        header = bytearray(header_length)
        receive_into(self._stream, memoryview(header))
        body_length = checked_length(self._length(BODY_LENGTH), MAX_BODY_BYTES)
        return Request(decode_header(bytes(header)), Body(self._stream, body_length))

    def send(self, header: dict[str, Any], body: Chunk = b"") -> None:
        """Send one frame; raises ChannelClosed."""
        try:
            self._stream.sendall(encode_head(header, len(body)))
            if len(body):
                self._stream.sendall(body)
        except OSError as error:
            raise ChannelClosed("the peer is gone") from error

    def _length(self, form: struct.Struct) -> int:
        prefix = bytearray(form.size)
        receive_into(self._stream, memoryview(prefix))
        return int(form.unpack(prefix)[0])


def receive_into(stream: socket.socket, target: memoryview) -> None:
    """Fill a buffer from a blocking socket; raises ChannelClosed."""
    while len(target):
        try:
            count = stream.recv_into(target, flags=socket.MSG_WAITALL)
        except OSError as error:
            raise ChannelClosed("the peer is gone") from error
        if not count:
            raise ChannelClosed("the peer closed the channel")
        target = target[count:]
