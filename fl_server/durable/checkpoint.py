"""An engine's state as one file: arrays in NumPy's own format, so that nothing is executed."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from fl_protocol.codes import Code, StorageFailed

_META = "meta"
# It may name any size, version, compression or key.
UNREADABLE = (
    *(AttributeError, EOFError, KeyError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What NumPy and zipfile raise of bytes that are no array or archive."""


def encode_state(state: dict[str, Any]) -> bytes:
    """Return what `strategies.engine.Engine.state` said as bytes."""
    buffer = io.BytesIO()
    meta = np.frombuffer(state[_META].encode(), np.uint8)
    arrays: dict[str, Any] = {**state, _META: meta}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def decode_state(data: bytes) -> dict[str, Any]:
    """Read what `encode_state` wrote; raises StorageFailed ``LEDGER_DAMAGED``."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            state: dict[str, Any] = {name: saved[name] for name in saved.files}
        state[_META] = state[_META].tobytes().decode()
    except UNREADABLE as error:
        raise StorageFailed(Code.LEDGER_DAMAGED, "The checkpoint cannot be read.") from error
    return state
