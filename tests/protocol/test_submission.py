"""Messages of SubmitUpdate are read as protobuf would, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_protocol.codes import EnvelopeRejected
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.submission import read_message

HEADERS = st.builds(
    pb.SubmitHeader,
    protected=st.binary(max_size=300),
    wrap=st.binary(max_size=100),
    tags=st.binary(max_size=100),
    signature=st.binary(max_size=64),
    membership=st.binary(max_size=300),
)


@given(header=st.none() | HEADERS, segment=st.binary(max_size=70_000))
def test_reads_what_protobuf_writes(header: pb.SubmitHeader | None, segment: bytes) -> None:
    message = read_message(pb.SubmitRequest(header=header, segment=segment).SerializeToString())
    assert message.header == header
    assert message.segment == segment


def test_segment_is_a_view_of_the_message() -> None:
    data = pb.SubmitRequest(segment=b"x" * 1000).SerializeToString()
    assert read_message(data).segment.obj is data


@given(data=st.binary(max_size=200))
def test_never_reads_what_protobuf_would_not(data: bytes) -> None:
    try:
        message = read_message(data)
    except EnvelopeRejected as refusal:
        assert refusal.code == "ENV_MALFORMED"
        return
    expected = pb.SubmitRequest.FromString(data)
    assert (message.header is not None) == expected.HasField("header")
    assert message.header in (None, expected.header)
    assert message.segment == expected.segment


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x01a\x12\x01b",
        b"\x0a\x00\x0a\x00",
        b"\x1a\x01a",
        b"\x10\x01",
        b"\x12\x02a",
        b"\x12\xff\xff\xff\xff\x0fa",
        b"\x12\xff\xff\xff\xff\xff\x01a",
        b"\x12",
        b"\x0a\x01\xff",
    ],
    ids=[
        "two_segments",
        "two_headers",
        "unknown_field",
        "number_instead",
        "too_short",
        "huge_length",
        "overlong_length",
        "no_length",
        "header_is_none",
    ],
)
def test_refuses(data: bytes) -> None:
    with pytest.raises(EnvelopeRejected, match="ENV_MALFORMED"):
        read_message(data)
