"""Search for a planted tensor in files and in the memory of processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_CHUNK = 4 << 20
_SLICE = 32


@dataclass(frozen=True)
class Needles:
    """Byte strings that must not be found, each of at least 32 bytes.

    A tensor is represented by the first, middle and last 8 float32 values of it, raw and as
    lower-case hexadecimal, so that a partial copy is found as well.
    """

    patterns: tuple[bytes, ...]

    @classmethod
    def of(cls, *tensors: npt.NDArray[np.float32]) -> Needles:
        """Take the needles from float32 tensors of at least 8 values each."""
        patterns: list[bytes] = []
        for tensor in tensors:
            raw = np.ascontiguousarray(tensor, dtype="<f4").tobytes()
            middle = len(raw) // 2 // 4 * 4
            for start in (0, middle, len(raw) - _SLICE):
                piece = raw[start : start + _SLICE]
                patterns += [piece, piece.hex().encode()]
        return cls(tuple(patterns))

    @property
    def overlap(self) -> int:
        """Bytes to carry from one chunk to the next so that no match is cut in two."""
        return max(map(len, self.patterns), default=1) - 1

    def found_in(self, data: bytes) -> bool:
        """Whether any pattern stands in ``data``."""
        return any(pattern in data for pattern in self.patterns)


def search_stream(chunks: Iterable[bytes], needles: Needles) -> bool:
    """Whether a pattern stands in the concatenation of ``chunks``."""
    tail = b""
    for chunk in chunks:
        window = tail + chunk
        if needles.found_in(window):
            return True
        tail = window[-needles.overlap :]
    return False


def search_files(root: Path, needles: Needles) -> list[Path]:
    """Return the files below ``root`` in which a pattern stands."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return [path for path in files if search_stream(_file_chunks(path), needles)]


def search_memory(pid: int, needles: Needles) -> bool:
    """Whether a pattern stands in the readable memory of process ``pid``.

    Raises
    ------
    PermissionError
        If this process may not read the other's memory.
    ProcessLookupError
        If there is no such process.
    """
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return any(
            search_stream(_region_chunks(memory.fileno(), start, end), needles)
            for start, end in _readable_regions(pid)
        )


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _readable_regions(pid: int) -> list[tuple[int, int]]:
    regions = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, *rest = line.split(maxsplit=5)
        special = bool(rest) and rest[-1] in ("[vvar]", "[vsyscall]", "[vvar_vclock]")
        if permissions.startswith("r") and not special:
            start, end = span.split("-")
            regions.append((int(start, 16), int(end, 16)))
    return regions


def _region_chunks(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    for offset in range(start, end, _CHUNK):
        try:
            yield os.pread(descriptor, min(_CHUNK, end - offset), offset)
        except OSError:
            return
