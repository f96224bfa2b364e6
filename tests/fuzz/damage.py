"""Inputs close enough to good ones to get past the first check, and noise."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

MAX_BYTES = 4000
# What the errors, their tracebacks and the interpreter's caches may take whatever the input.
_OWN_BYTES = 1 << 20
_BYTES_PER_BYTE = 64

# What parsers of text stumble over.
_TOKENS = [
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"=", b".", b"..", b"[" * 500, b'{"a":' * 200, b"{}", b"[]"),
    *(b'"', b"\\", b"\\ud800", b"null", b"true", b"NaN", b"-0", b"1e400", b"9" * 400, b"0.5"),
    *(b"\x80" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0" * 32),
]


@st.composite
def _damaged(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        piece = draw(st.sampled_from([b"", bytes(data[start:end]) * 2, *_TOKENS]) | st.binary())
        data[start:end] = piece
    return bytes(data[:MAX_BYTES])


def damaged(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return good inputs with pieces replaced, removed or repeated, and sometimes noise."""
    return _damaged(samples) | st.binary(max_size=MAX_BYTES)


def within_bounds(
    read: Callable[[], Any], refusals: tuple[type[Exception], ...], size: int
) -> None:
    """Read an input: either it is taken or refused, and memory stays in proportion to its size."""
    tracemalloc.start()
    try:
        read()
    except refusals:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= _OWN_BYTES + _BYTES_PER_BYTE * size
