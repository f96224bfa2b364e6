"""A disk in memory that forgets what was not synced and fails when told to."""

from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_protocol.ports import SystemRng
from fl_server.durable.journal import Journal

JOURNAL = Path("/journal")


@contextmanager
def no_room(longest: int) -> Iterator[None]:
    """Let no file of this process grow beyond a length in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class MemoryDisk:
    """Files in memory; `lose_power` keeps what was synced, and of the rest what `keep` says."""

    def __init__(self) -> None:
        self.files: dict[Path, bytearray] = {}
        self.synced: dict[Path, int] = {}
        self._locks: dict[Path, threading.Lock] = {}
        self.room: int | None = None
        self.fail_sync = False
        self.fail_truncate = False

    def lose_power(self, keep=lambda lost: b"") -> None:
        for path, data in self.files.items():
            durable = self.synced[path]
            data[durable:] = keep(bytes(data[durable:]))

    def take(self, count: int) -> int:
        if self.room is None:
            return count
        taken = min(count, self.room)
        self.room -= taken
        return taken

    def read(self, path: Path) -> bytes:
        return self.read_at(path, 0, self.size(path))

    def write_atomic(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        if self.take(len(data)) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.files[path], self.synced[path] = bytearray(data), len(data)

    def exists(self, path: Path) -> bool:
        return path in self.files

    def list(self, folder: Path) -> list[str]:
        return sorted(path.name for path in self.files if path.parent == folder)

    def size(self, path: Path) -> int:
        if path not in self.files:
            raise FileNotFoundError(path)
        return len(self.files[path])

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return bytes(self.files[path][offset : offset + count])

    def open_log(self, path: Path) -> _Log:
        self.files.setdefault(path, bytearray())
        self.synced.setdefault(path, 0)
        return _Log(self, path)

    def truncate(self, path: Path, size: int) -> None:
        if self.fail_truncate:
            raise OSError(errno.EIO, "Input/output error")
        del self.files[path][size:]
        self.synced[path] = size

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)
        self.synced.pop(path, None)

    @contextmanager
    def lock(self, path: Path, wait: bool = True) -> Iterator[bool]:
        held = self._locks.setdefault(path, threading.Lock())
        got = held.acquire(blocking=wait)
        try:
            yield got
        finally:
            if got:
                held.release()


class _Log:
    def __init__(self, disk: MemoryDisk, path: Path) -> None:
        self._disk, self._path = disk, path

    def append(self, parts) -> None:
        data = b"".join(bytes(part) for part in parts)
        taken = self._disk.take(len(data))
        self._disk.files[self._path] += data[:taken]
        if taken < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def sync(self) -> None:
        if self._disk.fail_sync:
            raise OSError(errno.EIO, "Input/output error")
        self._disk.synced[self._path] = len(self._disk.files[self._path])

    def close(self) -> None:
        pass


def journal_on(disk: MemoryDisk, segment_bytes: int = 1 << 20) -> Journal:
    return Journal(JOURNAL, disk, SystemRng(), segment_bytes=segment_bytes)
