"""The newest releases, kept so that asking for one again does not occupy the enclave."""

from __future__ import annotations

from collections import OrderedDict

from fl_protocol.ports import Chunk
from fl_protocol.proto import gateway_pb2 as pb

Release = tuple[pb.ReleaseHeader, Chunk]


class ReleaseCache:
    """Signed releases of the open run by version, the oldest forgotten first.

    Parameters
    ----------
    max_bytes : int
        Of models kept; the last one asked for is kept even if it is larger.
    """

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._max_bytes, self._size = max_bytes, 0
        self._kept: OrderedDict[tuple[str, int], Release] = OrderedDict()

    def get(self, run_id: str, version: int) -> Release | None:
        """Return a release, or None if it is not kept."""
        return self._kept.get((run_id, version))

    def put(self, run_id: str, version: int, release: Release) -> None:
        """Keep a release."""
        if (run_id, version) in self._kept:
            return
        self._kept[run_id, version] = release
        self._size += len(release[1])
        while self._size > self._max_bytes and len(self._kept) > 1:
            _, (_, body) = self._kept.popitem(last=False)
            self._size -= len(body)

    def clear(self) -> None:
        """Forget everything: the run was opened again, or its enclave is gone."""
        self._kept.clear()
        self._size = 0
