"""A disk that forgets what was not synced, fills up, fails, and dies with its machine."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from fl_protocol.ports import Chunk, LogFile
from fl_sim.faults.chance import Chance, Crash, Violation

# A file system's page: after a crash each of a file's unsynced pages is there or is not.
_PAGE = 64
_LONGEST_READ = 64 << 20
_TROUBLE_OPERATIONS = 12


class SimulatedDisk:
    """Files in memory, as `fl_protocol.ports.Disk`.

    Parameters
    ----------
    chance : Chance
        Decides what goes wrong.
    written : callable, optional
        Is shown whatever is written, before it is.

    Attributes
    ----------
    died : callable
        Called when the machine dies.
    """

    def __init__(self, chance: Chance, written: Callable[[bytes], None] | None = None) -> None:
        self._chance = chance
        self._written = written or (lambda data: None)
        self.died: Callable[[], None] = lambda: None
        self._content: dict[Path, bytearray] = {}
        self._synced: dict[Path, int] = {}
        # What a failed sync has dropped: readable until the power is lost, and synced no more.
        self._dropped: dict[Path, list[tuple[int, int]]] = {}
        self._locked: set[Path] = set()
        self._trouble, self._left = 0, 0
        self.dead = False

    def start(self) -> None:
        """Come back after a loss of power."""
        self.dead, self._left = False, 0
        self._locked.clear()

    def lose_power(self) -> None:
        """Keep what was synced, and of the rest whatever pages happen to have been written."""
        rng = self._chance.rng
        for path, content in self._content.items():
            start = self._synced[path]
            kept = rng.randint(start, len(content))
            for page in range(start, kept, _PAGE):
                self._spoil(content, page, min(page + _PAGE, kept))
            del content[kept:]
            for begin, end in self._dropped.pop(path, ()):
                content[begin:end] = bytes(len(content[begin:end]))

    def _spoil(self, content: bytearray, begin: int, end: int) -> None:
        """Leave an unsynced page as it is, or full of zeros, or of something else."""
        draw = self._chance.rng.random()
        if draw < 0.25:
            content[begin:end] = bytes(end - begin)
        elif draw < 0.4:
            content[begin:end] = self._chance.rng.randbytes(end - begin)

    def flip(self, folder: Path) -> tuple[Path, int, int] | None:
        """Alter one bit of a file in a folder; returns where, for `flip_back`."""
        paths = [path for path in sorted(self._content) if path.parent == folder]
        paths = [path for path in paths if self._content[path]]
        if not paths:
            return None
        path = self._chance.rng.choice(paths)
        at = self._chance.rng.randrange(len(self._content[path]))
        mask = 1 << self._chance.rng.randrange(8)
        self._content[path][at] ^= mask
        return path, at, mask

    def flip_back(self, flipped: tuple[Path, int, int]) -> None:
        """Restore a bit, as from a copy."""
        path, at, mask = flipped
        if path in self._content and at < len(self._content[path]):
            self._content[path][at] ^= mask

    def read(self, path: Path) -> bytes:
        """Return a file's content; raises FileNotFoundError."""
        return self.read_at(path, 0, self.size(path))

    def read_at(self, path: Path, offset: int, count: int) -> bytes:
        """Return up to `count` bytes of a file from `offset` on; raises FileNotFoundError."""
        self._alive()
        if count > _LONGEST_READ:
            raise Violation(f"I9: {count} bytes are asked for at once")
        if path not in self._content:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return bytes(self._content[path][offset : offset + count])

    def write_atomic(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        """Replace a file, or die before or after that."""
        self._written(data)
        self.step()
        self._write_may_fail()
        self._content[path], self._synced[path] = bytearray(data), len(data)
        self._dropped.pop(path, None)
        self.step()

    def exists(self, path: Path) -> bool:
        """Say whether a file is there."""
        self._alive()
        return path in self._content

    def list(self, folder: Path) -> list[str]:
        """Return the names in a folder in order."""
        self._alive()
        return sorted(path.name for path in self._content if path.parent == folder)

    def size(self, path: Path) -> int:
        """Return a file's length in bytes; raises FileNotFoundError."""
        self._alive()
        if path not in self._content:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return len(self._content[path])

    def open_log(self, path: Path) -> LogFile:
        """Open a file for appending."""
        self.step()
        self._content.setdefault(path, bytearray())
        self._synced.setdefault(path, 0)
        return _Log(self, path)

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to its first `size` bytes, durably."""
        self.step()
        if self._left and self._trouble == errno.EIO:
            self._fail()
        del self._content[path][size:]
        self._synced[path] = len(self._content[path])
        dropped = self._dropped.pop(path, [])
        self._dropped[path] = [(begin, min(end, size)) for begin, end in dropped if begin < size]

    def remove(self, path: Path) -> None:
        """Remove a file if it is there."""
        self.step()
        for facts in (self._content, self._synced, self._dropped):
            facts.pop(path, None)

    @contextmanager
    def lock(self, path: Path, wait: bool = True) -> Iterator[bool]:
        """Hold a file's lock; there is one thread, so whoever waits for another's waits for ever.

        Raises
        ------
        Violation
            Somebody waits for a lock that is held.
        """
        self.step()
        held = path in self._locked
        if held and wait:
            raise Violation(f"{path} is waited for by whoever holds it")
        self._locked.add(path)
        try:
            yield not held
        finally:
            if not held:
                self._locked.discard(path)

    def step(self) -> None:
        """Die here, perhaps."""
        self._alive()
        if self._chance.strikes("crash"):
            self._die()

    def append(self, path: Path, data: bytes) -> None:
        """Append to a log; a failure, or a death, in the middle leaves a part."""
        self._written(data)
        self._alive()
        dies = self._chance.strikes("crash")
        try:
            self._write_may_fail()
        except OSError:
            self._content[path] += data[: self._chance.rng.randint(0, len(data))]
            raise
        if dies:
            self._content[path] += data[: self._chance.rng.randint(0, len(data))]
            self._die()
        self._content[path] += data

    def sync(self, path: Path) -> None:
        """Make a log durable, or die before or after that."""
        self.step()
        size = len(self._content[path])
        if (self._left and self._trouble == errno.EIO) or self._chance.strikes("failing"):
            self._dropped.setdefault(path, []).append((self._synced[path], size))
            self._trouble, self._left = errno.EIO, max(1, self._left)
            self._fail()
        self._synced[path] = size
        self.step()

    def _die(self) -> NoReturn:
        self.dead = True
        self.died()
        raise Crash

    def _alive(self) -> None:
        if self.dead:
            raise Crash

    def _write_may_fail(self) -> None:
        if not self._left:
            if self._chance.strikes("full"):
                self._trouble, self._left = errno.ENOSPC, _TROUBLE_OPERATIONS
            elif self._chance.strikes("failing"):
                self._trouble, self._left = errno.EIO, _TROUBLE_OPERATIONS
        if self._left:
            self._fail()

    def _fail(self) -> None:
        self._left -= 1
        raise OSError(self._trouble, "simulated")


class _Log:
    def __init__(self, disk: SimulatedDisk, path: Path) -> None:
        self._disk, self._path = disk, path

    def append(self, parts: Sequence[Chunk]) -> None:
        self._disk.append(self._path, b"".join(bytes(part) for part in parts))

    def sync(self) -> None:
        self._disk.sync(self._path)

    def close(self) -> None:
        pass
