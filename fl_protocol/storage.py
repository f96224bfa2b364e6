"""What must be kept on disk: whole and for the owner only, or a typed refusal."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_protocol.codes import Code, StorageFailed
from fl_protocol.ports import Disk

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_private(disk: Disk, path: Path, data: bytes) -> None:
    """Replace a file atomically, mode 0600.

    Raises
    ------
    StorageFailed
        ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: there is no room, or the disk fails.
    """
    with stored(str(path)):
        disk.write_atomic(path, data, 0o600)


def clear_interrupted(disk: Disk, folder: Path, *names: str) -> None:
    """Remove what `write_atomic` leaves behind when its process is killed.

    Nobody else may write there meanwhile.

    Parameters
    ----------
    disk, folder : Disk, Path
        Where to look.
    *names : str
        How the names begin of the files that were to be replaced; in a folder that holds nothing
        else, none need be given.

    Raises
    ------
    StorageFailed
        ``JOURNAL_FAILED``: the disk fails.
    """
    hidden = tuple(f".{name}" for name in names or ("",))
    with stored(str(folder)):
        for name in disk.list(folder):
            if name.startswith(hidden):
                disk.remove(folder / name)


@contextmanager
def stored(what: str) -> Iterator[None]:
    """Turn an OSError into StorageFailed ``JOURNAL_FULL`` or ``JOURNAL_FAILED``."""
    try:
        yield
    except OSError as error:
        raise storage_failure(what, error) from error


def storage_failure(what: str, error: OSError) -> StorageFailed:
    """Say that what was to be kept on disk could not be."""
    code = Code.JOURNAL_FULL if error.errno in _NO_SPACE else Code.JOURNAL_FAILED
    return StorageFailed(code, f"{what} could not be used: {error.strerror or error}.")
