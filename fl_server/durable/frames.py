"""How entries lie in a segment of the journal, and how a damaged segment is told from a torn one.

::

    segment = head, frame, frame, ...
    head    = "ASYNCLJ1" || salt (4 bytes) || number of the first entry (8) || crc32 of these (4)
    frame   = "AJ" || kind (1) || 0 || meta length (4) || body length (8) || synced (8)
              || crc32 of meta and body (4) || salted crc32 of these (4) || meta || body

Integers are big-endian. The salt is random: what a client sends cannot contain a valid frame head.
``synced`` says how much of the segment had been synced when the frame was written; after every
sync a mark, a frame without content, is appended. So a bad frame was synced, and damaged since, if
a good one behind it says so; otherwise it is what a crash left of a write nobody relied on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# The checksum of zlib, several times as fast.
from zlib_ng.zlib_ng import crc32

from fl_protocol.ports import Chunk

ENTRY, MARK = 1, 2
MAX_META_BYTES = 64 << 10
MAX_BODY_BYTES = 8 << 30

_SEGMENT_MAGIC, _FRAME_MAGIC = b"ASYNCLJ1", b"AJ"
_SEGMENT = struct.Struct(">8sIQ")
_FRAME = struct.Struct(">2sBxIQQI")
_CRC = struct.Struct(">I")
SEGMENT_HEAD_BYTES = _SEGMENT.size + _CRC.size
FRAME_HEAD_BYTES = _FRAME.size + _CRC.size
_READ_BYTES = 1 << 20

Read = Callable[[int, int], bytes]
"""Returns up to so many bytes from an offset on."""


@dataclass(frozen=True)
class SegmentHead:
    """What the first bytes of a segment say."""

    salt: int
    first: int


@dataclass(frozen=True)
class Frame:
    """Where a frame lies and what its head says.

    Attributes
    ----------
    kind : int
        `ENTRY` or `MARK`.
    offset : int
        Of its head in the segment.
    meta_length, body_length : int
        Bytes behind the head.
    synced : int
        Bytes of the segment that were synced when it was written.
    crc : int
        Of meta and body.
    """

    kind: int
    offset: int
    meta_length: int
    body_length: int
    synced: int
    crc: int

    @property
    def content_offset(self) -> int:
        """Offset of the meta."""
        return self.offset + FRAME_HEAD_BYTES

    @property
    def end(self) -> int:
        """Offset of what follows."""
        return self.content_offset + self.meta_length + self.body_length

    def head(self, salt: int) -> bytes:
        """Return the bytes of its head."""
        packed = _FRAME.pack(
            _FRAME_MAGIC, self.kind, self.meta_length, self.body_length, self.synced, self.crc
        )
        return packed + _CRC.pack(crc32(packed, salt))


def encode_segment_head(head: SegmentHead) -> bytes:
    """Return the first bytes of a segment."""
    packed = _SEGMENT.pack(_SEGMENT_MAGIC, head.salt, head.first)
    return packed + _CRC.pack(crc32(packed))


def decode_segment_head(data: bytes) -> SegmentHead | None:
    """Read the first bytes of a segment; None if they are not whole."""
    if len(data) < SEGMENT_HEAD_BYTES:
        return None
    packed, crc = data[: _SEGMENT.size], data[_SEGMENT.size : SEGMENT_HEAD_BYTES]
    magic, salt, first = _SEGMENT.unpack(packed)
    if magic != _SEGMENT_MAGIC or _CRC.unpack(crc)[0] != crc32(packed):
        return None
    return SegmentHead(salt, first)


def content_crc(parts: Sequence[Chunk]) -> int:
    """Return the checksum of meta and body."""
    crc = 0
    for part in parts:
        crc = crc32(part, crc)
    return crc


def scan(read: Read, size: int, salt: int) -> Iterator[Frame]:
    """Yield the good frames of a segment in order; ends at the first that is not."""
    offset = SEGMENT_HEAD_BYTES
    while frame := _decode(read(offset, FRAME_HEAD_BYTES), offset, size, salt):
        if not _intact(read, frame):
            return
        yield frame
        offset = frame.end


def was_synced(read: Read, offset: int, size: int, salt: int) -> bool:
    """Say whether a frame head behind an offset tells that what is there had been synced."""
    position, rest = offset + 1, b""
    while data := read(position + len(rest), _READ_BYTES):
        data = rest + data
        at = data.find(_FRAME_MAGIC)
        while at >= 0:
            frame = _decode(data[at : at + FRAME_HEAD_BYTES], position + at, size, salt)
            if frame is not None and frame.synced > offset:
                return True
            at = data.find(_FRAME_MAGIC, at + 1)
        rest = data[1 - FRAME_HEAD_BYTES :]
        position += len(data) - len(rest)
    return False


def _decode(data: bytes, offset: int, size: int, salt: int) -> Frame | None:
    if len(data) < FRAME_HEAD_BYTES:
        return None
    magic, kind, meta_length, body_length, synced, crc = _FRAME.unpack(data[: _FRAME.size])
    if magic != _FRAME_MAGIC or meta_length > MAX_META_BYTES or body_length > MAX_BODY_BYTES:
        return None
    frame = Frame(kind, offset, meta_length, body_length, synced, crc)
    return frame if frame.head(salt) == data and frame.end <= size else None


def _intact(read: Read, frame: Frame) -> bool:
    crc, offset = 0, frame.content_offset
    while offset < frame.end:
        data = read(offset, min(_READ_BYTES, frame.end - offset))
        if not data:
            return False
        crc = crc32(data, crc)
        offset += len(data)
    return crc == frame.crc
