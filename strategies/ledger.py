"""Which updates were counted, so that none counts twice."""

from __future__ import annotations

from collections.abc import Iterable


class Ledger:
    """Accepted updates by base version, as long as that version is not too old to be refused.

    Memory is bounded by the updates accepted from the live base versions.
    """

    def __init__(self) -> None:
        self._by_base: dict[int, dict[str, str]] = {}
        self._ids: set[str] = set()

    def knows(self, client: str, base_version: int, update_id: str) -> bool:
        """Whether the id, or an update of this client from this version, was counted."""
        return update_id in self._ids or client in self._by_base.get(base_version, ())

    def add(self, client: str, base_version: int, update_id: str) -> None:
        """Note an accepted update."""
        self._by_base.setdefault(base_version, {})[client] = update_id
        self._ids.add(update_id)

    def forget(self, base_version: int) -> None:
        """Drop the updates from a version that is refused as too stale from now on."""
        self._ids.difference_update(self._by_base.pop(base_version, {}).values())

    def state(self) -> list[list[object]]:
        """Return JSON data that :meth:`restore` reads."""
        return [
            [base, client, update_id]
            for base, clients in self._by_base.items()
            for client, update_id in clients.items()
        ]

    def restore(self, rows: Iterable[tuple[int, str, str]]) -> None:
        """Continue from a saved state."""
        self._by_base, self._ids = {}, set()
        for base, client, update_id in rows:
            self.add(client, base, update_id)
