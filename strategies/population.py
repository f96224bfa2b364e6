"""Who takes part: clients heard of lately."""

from __future__ import annotations

from collections.abc import Collection


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
    """

    def __init__(
        self, max_age: float, max_clients: int | None = None, num_clients: int | None = None
    ) -> None:
        self._max_age = max_age
        self._max_clients = max_clients
        self._num_clients = num_clients
        self._uploads = 0
        self._last: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Number of clients, at least 1."""
        return self._num_clients or max(1, len(self._last))

    def touch(self, client: str) -> None:
        """Note an upload of ``client``."""
        self._uploads += 1
        self._last.pop(client, None)
        self._last[client] = self._uploads

    def expire(self, keep: Collection[str]) -> list[str]:
        """Remove and return the clients that left; never one of ``keep``."""
        gone: list[str] = []
        excess = 0 if self._max_clients is None else len(self._last) - self._max_clients
        oldest_allowed = self._uploads - self._max_age * self.size
        for client, last in self._last.items():
            if client in keep or (len(gone) >= excess and last >= oldest_allowed):
                break
            gone.append(client)
        for client in gone:
            del self._last[client]
        return gone

    def state(self) -> dict[str, object]:
        """Return JSON data that :meth:`restore` reads."""
        return {"uploads": self._uploads, "last": list(self._last.items())}

    def restore(self, uploads: int, last: list[tuple[str, int]]) -> None:
        """Continue from a saved state."""
        self._uploads = uploads
        self._last = {client: upload for client, upload in last}
