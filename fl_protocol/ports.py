"""The outside world as ports: time, randomness, disk, network; a simulation replaces each."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

_Reply = TypeVar("_Reply")


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


class Disk(Protocol):
    """Small files that must survive a crash whole or not at all."""

    def read(self, path: Path) -> bytes:
        """Return a file's content; raises FileNotFoundError."""
        ...

    def write_atomic(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        """Replace a file so that readers see the old or the new content, never a part."""
        ...

    def exists(self, path: Path) -> bool:
        """Say whether a file is there."""
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


class SystemRng:
    """The operating system's random generator."""

    def bytes(self, n: int) -> bytes:
        """Return `n` unpredictable bytes."""
        return os.urandom(n)


class LocalDisk:
    """The local file system."""

    def read(self, path: Path) -> bytes:
        """Return a file's content; raises FileNotFoundError."""
        return path.read_bytes()

    def write_atomic(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        """Write to a temporary neighbour, sync it, and rename it over the target."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
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

    @staticmethod
    def _sync_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
