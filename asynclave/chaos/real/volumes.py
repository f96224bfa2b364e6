"""Small volumes that can be filled up and freed again while processes write to them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asynclave.chaos.real.commands import run

# Room for more than one segment of a journal, which is closed when it has grown to 32 MiB.
_SIZE = "192m"
_BALLAST = ".ballast"
_PIECES = (1 << 20, 1 << 12)
_REFILL_SECONDS = 0.05


class Volume:
    """A tmpfs of 192 MiB.

    Parameters
    ----------
    folder : Path
        Where it is mounted; created when missing.

    Raises
    ------
    OSError
        It cannot be mounted, which takes root.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        options = f"size={_SIZE},mode=0700"
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))

    @contextmanager
    def full(self) -> Iterator[None]:
        """Leave no room as long as the block lasts; `wait` inside it, not `time.sleep`."""
        path = self._folder / _BALLAST
        with path.open("ab", buffering=0) as self._ballast:
            try:
                self._fill()
                yield
            finally:
                path.unlink()

    def wait(self, seconds: float) -> None:
        """Wait inside `full`, taking at once whatever is freed meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._fill()
            time.sleep(_REFILL_SECONDS)

    def unmount(self) -> None:
        """Unmount it, once nobody writes to it; what is in it is in the folder then."""
        copy = self._folder.with_name(f"{self._folder.name}.copy")
        shutil.copytree(self._folder, copy)
        with contextlib.suppress(OSError):
            run("umount", str(self._folder))
            shutil.copytree(copy, self._folder, dirs_exist_ok=True)
        shutil.rmtree(copy)

    def _fill(self) -> None:
        for piece in map(bytes, _PIECES):
            try:
                while os.write(self._ballast.fileno(), piece) == len(piece):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
