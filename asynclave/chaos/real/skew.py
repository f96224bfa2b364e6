"""Wall clocks that another process can set."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_protocol.ports import SystemClock

_OFFSET = struct.Struct("<d")


class SkewedClock(SystemClock):
    """The machine's clock plus an offset that a file holds.

    Parameters
    ----------
    file : Path
        Holds the offset in seconds, 0 at first; created when missing.
    """

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(_OFFSET.size))
        with file.open("r+b") as handle:
            self._offset = mmap.mmap(handle.fileno(), _OFFSET.size)

    def now(self) -> float:
        """Return the current time in seconds since 1970."""
        offset: float = _OFFSET.unpack_from(self._offset)[0]
        return super().now() + offset

    @contextmanager
    def off_by(self, seconds: float) -> Iterator[None]:
        """Set the clock ahead, or back by a negative number, as long as the block lasts."""
        _OFFSET.pack_into(self._offset, 0, seconds)
        try:
            yield
        finally:
            _OFFSET.pack_into(self._offset, 0, 0.0)
