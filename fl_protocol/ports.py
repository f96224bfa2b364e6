"""The outside world as ports: time, randomness, disk, network; a simulation replaces each."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

_Reply = TypeVar("_Reply")
# POSIX lets writev refuse more.
_MOST_VECTORS = 1024

Chunk: TypeAlias = bytes | bytearray | memoryview


class Clock(Protocol):
    """Wall-clock time in Unix seconds."""

    def now(self) -> float:
        """Return the current time in seconds since 1970."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for a duration in seconds."""
        ...


class Rng(Protocol):
    """A cryptographic source of randomness."""

    def bytes(self, n: int) -> bytes:
        """Return `n` unpredictable bytes."""
        ...


class LogFile(Protocol):
    """A file that grows at its end."""

    def append(self, parts: Sequence[Chunk]) -> None:
        """Write parts one after the other; an OSError may leave some of their bytes behind."""
        ...

    def sync(self) -> None:
        """Return when everything appended will survive a loss of power."""
        ...

    def close(self) -> None:
        """Close the file, without a sync."""
        ...


class Disk(Protocol):
    """Files that must survive a crash: small ones whole or not at all, logs up to their sync."""

    def read(self, path: Path) -> bytes:
        """Return a file's content; raises FileNotFoundError."""
        ...

    def write_atomic(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        """Replace a file so that readers see the old or the new content, never a part."""
        ...

    def exists(self, path: Path) -> bool:
        """Say whether a file is there."""
        ...

    def list(self, folder: Path) -> list[str]:
        """Return the names in a folder in order, none if there is no folder."""
        ...

    def size(self, path: Path) -> int:
        """Return a file's length in bytes; raises FileNotFoundError."""
        ...

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        """Return up to `count` bytes of a file from `offset` on; raises FileNotFoundError."""
        ...

    def open_log(self, path: Path) -> LogFile:
        """Open a file for appending; a new one's name survives a loss of power."""
        ...

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to its first `size` bytes, durably."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file if it is there, durably."""
        ...

    def lock(self, path: Path, wait: bool = True) -> contextlib.AbstractContextManager[bool]:
        """Hold the lock that a file stands for, alone among threads and processes.

        Yields whether it is held, which is always so after waiting. The lock of a process that
        dies is free again.
        """
        ...


class Transport(Protocol):
    """Single attempts of calls to a gateway; retries and tokens are above it."""

    def invoke(
        self,
        method: str,
        request: Any,
        read: Callable[[Any], _Reply],
        token: str | None,
        timeout: float | None = None,
        trace_id: str | None = None,
    ) -> _Reply:
        """Make one attempt; raises the gateway's refusal or `GatewayUnavailable`."""
        ...

    def close(self) -> None:
        """Let go of the gateway."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return the current time in seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait for a duration in seconds."""
        time.sleep(seconds)


class SteadyClock:
    """Unix time as the machine's clock showed it once, moved on by one that nobody can set.

    For durations, such as leases: a clock that is set back must not stretch them.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return seconds since 1970, as of the clock when this was made."""
        return time.monotonic() + self._offset

    def sleep(self, seconds: float) -> None:
        """Wait for a duration in seconds."""
        time.sleep(seconds)


class SystemRng:
    """The operating system's random generator."""

    def bytes(self, n: int) -> bytes:
        """Return `n` unpredictable bytes."""
        return os.urandom(n)


class LocalLog:
    """An append-only file of the local file system."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(self, parts: Sequence[Chunk]) -> None:
        """Write parts one after the other."""
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        while views:
            written = os.writev(self._handle, views[:_MOST_VECTORS])
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def sync(self) -> None:
        """Have the disk keep what was appended."""
        os.fdatasync(self._handle)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


class LocalDisk:
    """The local file system."""

    def read(self, path: Path) -> bytes:
        """Return a file's content; raises FileNotFoundError."""
        return path.read_bytes()

    def write_atomic(
        self, path: Path, data: bytes, mode: int = 0o600, like: os.stat_result | None = None
    ) -> None:
        """Write to a temporary neighbour, sync it, and rename it over the target.

        Parameters
        ----------
        path : Path
            The target.
        data : bytes
            Its new content.
        mode : int
            Its new permissions.
        like : stat_result, optional
            Of a file with the wanted owner and group; only root can make them others than its own.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                if like is not None:
                    os.fchown(file.fileno(), like.st_uid, like.st_gid)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        self._sync_folder(path.parent)

    def exists(self, path: Path) -> bool:
        """Say whether a file is there."""
        return path.exists()

    def list(self, folder: Path) -> list[str]:
        """Return the names in a folder in order, none if there is no folder."""
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def size(self, path: Path) -> int:
        """Return a file's length in bytes; raises FileNotFoundError."""
        return path.stat().st_size

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        """Return up to `count` bytes of a file from `offset` on; raises FileNotFoundError."""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(count)

    def open_log(self, path: Path) -> LogFile:
        """Open a file for appending, with mode 0600 if it is new."""
        path.parent.mkdir(parents=True, exist_ok=True)
        log = LocalLog(path)
        self._sync_folder(path.parent)
        return log

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to its first `size` bytes, durably."""
        with path.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())

    def remove(self, path: Path) -> None:
        """Remove a file if it is there, durably."""
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            self._sync_folder(path.parent)

    @contextlib.contextmanager
    def lock(self, path: Path, wait: bool = True) -> Iterator[bool]:
        """Hold flock(2) on a file, created with its folder for the owner only if missing.

        A symbolic link is refused: root would create a file wherever the folder's owner points.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            yield _flocked(handle, wait)
        finally:
            os.close(handle)

    @staticmethod
    def _sync_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _flocked(handle: int, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
