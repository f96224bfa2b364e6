"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fl_protocol.codes import Code, StorageFailed
from fl_protocol.ports import Disk, LocalDisk
from fl_protocol.storage import stored


@contextmanager
def locked(folder: Path, disk: Disk | None = None) -> Iterator[None]:
    """Keep a folder to this process; it is created when missing, readable by its owner only.

    It is on the local disk unless another is given.

    Raises
    ------
    StorageFailed
        ``STATE_IN_USE``; ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: the folder cannot be used.
    """
    with ExitStack() as stack:
        with stored(str(folder)):
            lock = (disk or LocalDisk()).lock(folder / "lock", wait=False)
            held = stack.enter_context(lock)
        if not held:
            raise StorageFailed(
                Code.STATE_IN_USE, f"Another process uses the saved state in {folder}."
            )
        yield
