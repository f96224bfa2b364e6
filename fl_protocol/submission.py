"""The messages of SubmitUpdate, read without copying the segments that they carry.

protobuf would copy a segment twice, into its own memory and out of it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from fl_protocol.codes import Code, EnvelopeRejected
from fl_protocol.proto import gateway_pb2 as pb

_HEADER, _SEGMENT = 1, 2
_LENGTH_DELIMITED = 2
_MAX_VARINT_BYTES = 5


@dataclass(frozen=True)
class SubmitMessage:
    """One message of a call.

    Attributes
    ----------
    header : SubmitHeader or None
        What the first message begins with.
    segment : memoryview
        Ciphertext and tag of a segment, within the message; empty if there is none.
    """

    header: pb.SubmitHeader | None
    segment: memoryview


def read_message(data: bytes) -> SubmitMessage:
    """Read an encoded ``SubmitRequest``.

    Raises
    ------
    EnvelopeRejected
        ``ENV_MALFORMED``: it is none, or a field comes twice or is not known.
    """
    fields: dict[int, memoryview] = {}
    try:
        for number, content in _fields(memoryview(data)):
            if number in fields or number not in (_HEADER, _SEGMENT):
                raise ValueError("repeated or unknown field")
            fields[number] = content
        encoded = fields.get(_HEADER)
        header = None if encoded is None else pb.SubmitHeader.FromString(bytes(encoded))
    except (ValueError, DecodeError) as error:
        raise EnvelopeRejected(Code.ENV_MALFORMED) from error
    return SubmitMessage(header, fields.get(_SEGMENT, memoryview(b"")))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of length-delimited fields; raises ValueError for anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        length, at = _varint(data, at)
        if key & 7 != _LENGTH_DELIMITED or length > len(data) - at:
            raise ValueError("not a length-delimited field")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for position, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, at + position + 1
    raise ValueError("unfinished number")
