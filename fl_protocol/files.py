"""Files that somebody else may have laid out: regular ones, and no more of them than is useful."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path


class UnfitFile(OSError):
    """What has the file's name is no regular file, or too large; the message says which."""


def regular_size(path: Path) -> int:
    """Return a regular file's length in bytes; links are followed.

    Raises
    ------
    UnfitFile
        It is something else: opening a pipe would wait for whoever writes to it.
    OSError
        It is not there, or out of reach.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise UnfitFile("is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise UnfitFile("is no regular file")
    return found.st_size


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; raises as `regular_size`."""
    regular_size(path)
    # What it was replaced by since must not be waited for, either.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """Return a regular file's content; raises as `regular_size`, also if it has more bytes."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UnfitFile(f"has more than {limit} bytes")
    return data
