"""A counter in a file."""

from __future__ import annotations

from pathlib import Path

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.ports import Disk


class FileCounter:
    """Counts up from 0; whoever can write the file can turn it back.

    It gives no rollback protection: that takes a monotonic counter in hardware or on other
    machines. It only finds out that what it counts was restored without it.
    """

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path, self._disk = path, disk

    def value(self) -> int:
        """Return the count; raises ConfigInvalid when the file is damaged."""
        text = self._disk.read(self._path) if self._disk.exists(self._path) else b"0"
        if not text.isdigit():
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                f"{self._path} is damaged; write the highest number anybody has seen of it there.",
            )
        return int(text)

    def next(self) -> int:
        """Count up and return the new value."""
        number = self.value() + 1
        self._disk.write_atomic(self._path, str(number).encode())
        return number
