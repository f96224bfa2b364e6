"""Who takes part: clients heard of lately."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from operator import index
from statistics import median
from typing import Protocol


class Upload(Protocol):
    """Who sent an update, and how late."""

    @property
    def client(self) -> str:
        """The client."""
        ...

    @property
    def staleness(self) -> int:
        """Staleness in versions."""
        ...


class Population:
    """Clients by their last upload, oldest first.

    Age is counted in uploads per client: an age of 1 means that as many uploads arrived since
    as there are clients.

    Parameters
    ----------
    max_age : float
        A client silent for longer leaves.
    max_clients : int, optional
        Beyond this number the longest silent leave.
    num_clients : int, optional
        Size of the federation when known; by default the clients heard of.
    per_client : bool
        False counts ``max_age`` in uploads of all clients together.
    counts_rounds : bool
        Keep what :meth:`round_uploads` needs.
    """

    def __init__(
        self,
        max_age: float,
        max_clients: int | None = None,
        num_clients: int | None = None,
        per_client: bool = True,
        *,
        counts_rounds: bool = False,
    ) -> None:
        self._max_age = max_age
        self._max_clients = max_clients
        self._num_clients = num_clients
        self._per_client = per_client
        self._uploads = 0
        self._last: dict[str, int] = {}
        self._staleness: dict[str, tuple[int, int]] = {}
        # Uploads between the last two of each client; None where nobody asks.
        self._gaps: dict[str, int] | None = {} if counts_rounds else None
        self._round = 0, 0.0

    def copy(self) -> Population:
        """Return a population that changes on its own from here on."""
        other = copy(self)
        other._last, other._staleness = dict(self._last), dict(self._staleness)
        other._gaps = None if self._gaps is None else dict(self._gaps)
        return other

    @property
    def size(self) -> int:
        """Number of clients, at least 1."""
        return self._num_clients or max(1, len(self._last))

    def touch(self, client: str) -> None:
        """Note an upload of ``client``."""
        self._uploads += 1
        last = self._last.pop(client, None)
        self._last[client] = self._uploads
        if self._gaps is not None and last is not None:
            self._gaps[client] = self._uploads - last

    def round_uploads(self) -> float:
        """Return the uploads in which the median client uploads once; 0 unless counted.

        A client counts with the uploads between its last two, or since its last one if those
        are more. Looked up anew after an eighth as many uploads as there are clients.
        """
        if self._gaps is None:
            return 0.0
        taken_at, known = self._round
        if taken_at == 0 or self._uploads - taken_at >= max(1, len(self._last) // 8):
            gaps, now = self._gaps, self._uploads
            known = float(median(max(gaps.get(c, 0), now - last) for c, last in self._last.items()))
            self._round = now, known
        return known

    def mean_staleness_after(self, uploads: Sequence[Upload]) -> tuple[float, ...]:
        """Note the staleness of uploads; return the mean of each one's client, itself included."""
        for upload in uploads:
            total, count = self._staleness.get(upload.client, (0, 0))
            self._staleness[upload.client] = total + upload.staleness, count + 1
        noted = [self._staleness[upload.client] for upload in uploads]
        return tuple(total / count for total, count in noted)

    def expire(self, keep: Collection[str]) -> list[str]:
        """Remove and return the clients that left; never one of ``keep``."""
        gone: list[str] = []
        excess = 0 if self._max_clients is None else len(self._last) - self._max_clients
        unit = self.size if self._per_client else 1
        oldest_allowed = self._uploads - self._max_age * unit
        for client, last in self._last.items():
            if client in keep or (len(gone) >= excess and last >= oldest_allowed):
                break
            gone.append(client)
        for client in gone:
            del self._last[client]
            self._staleness.pop(client, None)
            if self._gaps is not None:
                self._gaps.pop(client, None)
        return gone

    def state(self) -> dict[str, object]:
        """Return JSON data that :meth:`restore` reads."""
        return {
            "uploads": self._uploads,
            "last": list(self._last.items()),
            "staleness": [[client, *noted] for client, noted in self._staleness.items()],
            "gaps": None if self._gaps is None else list(self._gaps.items()),
            "round": self._round,
        }

    def restore(
        self,
        uploads: int,
        last: list[tuple[str, int]],
        staleness: list[tuple[str, int, int]],
        gaps: list[tuple[str, int]] | None,
        round: tuple[int, float],
    ) -> None:
        """Continue from a saved state; raises TypeError or ValueError if it is damaged."""
        noted = {client: (index(total), index(count)) for client, total, count in staleness}
        self._last = {client: index(upload) for client, upload in last}
        self._uploads, self._staleness = index(uploads), noted
        self._gaps = None if gaps is None else {client: index(gap) for client, gap in gaps}
        taken_at, known = round
        self._round = index(taken_at), float(known)
