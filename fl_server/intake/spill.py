"""Room on disk for the cached deltas of recipes with ``cache = "disk"``."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from fl_protocol.codes import Code, ConfigInvalid
from strategies.update import FLOAT_BYTES, Vector

_FIRST_BYTES = 16 << 20


class SpillFiles:
    """Rows in memory-mapped files without a name: they vanish with the process, however it ends.

    The rows hold updates in the clear, which is why no release rule allows them. Space is taken
    from the disk in advance, file by file, so that a full disk is an error here and not a crash
    at some later write; a file is a quarter as large as all before it, which bounds their number.

    Parameters
    ----------
    folder : Path, optional
        Where the files are made; the system's folder for temporary files if unset.

    Raises
    ------
    ConfigInvalid
        There is no such folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise ConfigInvalid(
                Code.CONFIG_INVALID, f"cache_folder: {folder} is not a folder; create it first."
            )
        self._folder = folder
        self._free: defaultdict[int, list[Vector]] = defaultdict(list)
        self._bytes = 0

    def new(self, num_params: int) -> Vector:
        """Return a writable float32 row, shape ``(num_params,)``.

        Raises
        ------
        ConfigInvalid
            The disk is full or cannot be written to.
        """
        if not self._free[num_params]:
            try:
                self._free[num_params] = self._another_file(num_params)
            except OSError as error:
                raise ConfigInvalid(
                    Code.CONFIG_INVALID,
                    f"cache_folder: no room for another cached update ({error.strerror}); free "
                    "space, choose another folder or bound max_clients.",
                ) from error
        return self._free[num_params].pop()

    def free(self, row: Vector) -> None:
        """Take back a row for the next :meth:`new` of its size."""
        self._free[row.size].append(row)

    def _another_file(self, num_params: int) -> list[Vector]:
        row_bytes = FLOAT_BYTES * num_params
        rows = max(1, max(_FIRST_BYTES, self._bytes // 4) // row_bytes)
        size = rows * row_bytes
        with tempfile.TemporaryFile(dir=self._folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
            # The mapping keeps the file alive.
            mapping = mmap.mmap(file.fileno(), size)
        self._bytes += size
        return list(np.frombuffer(mapping, np.float32).reshape(rows, num_params))
