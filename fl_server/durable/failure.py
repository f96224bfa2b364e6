"""What the operating system says of a disk, as this package's errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fl_protocol.codes import Code, StorageFailed

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def failure(what: str, error: OSError) -> StorageFailed:
    """Return the error for something that could not be written or read."""
    code = Code.JOURNAL_FULL if error.errno in _NO_SPACE else Code.JOURNAL_FAILED
    return StorageFailed(code, f"{what} could not be used: {error.strerror or error}.")


@contextmanager
def stored(what: str) -> Iterator[None]:
    """Turn an OSError into StorageFailed ``JOURNAL_FULL`` or ``JOURNAL_FAILED``."""
    try:
        yield
    except OSError as error:
        raise failure(what, error) from error
