"""A saved state reads back, or is refused by code whatever was done to it."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_protocol.codes import StorageFailed
from fl_server.durable.checkpoint import decode_state, encode_state

SAVED = encode_state({"meta": '{"version":1}', "mean": np.arange(9, dtype=np.float32)})
HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"


def saved(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def array(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n"


def test_a_state_reads_back() -> None:
    state = decode_state(SAVED)
    assert state["meta"] == '{"version":1}'
    np.testing.assert_array_equal(state["mean"], np.arange(9))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SAVED[:-1],
        array(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }") + bytes(4),
        saved("meta", b"{}"),
        saved("mean.npy", array(HUGE)),
        saved("meta.npy", array(HUGE)),
        saved("meta.npy", array(b"{'descr': '<f4',")),
        SAVED.replace(b"PK\x01\x02\x2d\x03\x2d", b"PK\x01\x02\x2d\x03\xff"),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_a_file_that_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(StorageFailed, match="LEDGER_DAMAGED"):
        decode_state(data)


@given(st.lists(st.tuples(st.integers(0, len(SAVED) - 1), st.integers(0, 255)), max_size=5))
def test_a_damaged_state_ends_in_no_other_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SAVED)
    for at, byte in changes:
        data[at] = byte
    try:
        decode_state(bytes(data))
    except StorageFailed as refused:
        assert refused.code == "LEDGER_DAMAGED"
