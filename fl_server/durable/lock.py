"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_protocol.codes import Code, StorageFailed


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to this process; it is created when missing, readable by its owner only.

    Raises
    ------
    StorageFailed
        ``STATE_IN_USE``.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StorageFailed(
            Code.STATE_IN_USE, f"Another process uses the saved state in {folder}."
        ) from None
