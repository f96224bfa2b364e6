"""Which updates were counted, so that none counts twice."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index

from strategies.reject import Reject
from strategies.update import ClientUpdate


class Ledger:
    """Accepted updates by base version, as long as that version is not too old to be refused.

    Memory is bounded by the updates accepted from the live base versions.

    Parameters
    ----------
    first_version : int
        Version of the model the run started from.
    """

    def __init__(self, first_version: int) -> None:
        self.first_version = first_version
        self._by_base: dict[int, dict[str, str]] = {}
        self._ids: set[str] = set()

    def screen(self, update: ClientUpdate, version: int, max_staleness: int) -> Reject | None:
        """Check an update's base version and that it was not counted yet.

        Parameters
        ----------
        update : ClientUpdate
            The update.
        version : int
            The current version.
        max_staleness : int
            Versions an update may lag behind.

        Returns
        -------
        Reject or None
            UNKNOWN_BASE_VERSION, TOO_STALE, DUPLICATE_UPDATE or None.
        """
        base = update.base_version
        if type(base) is not int or not self.first_version <= base <= version:
            return Reject.UNKNOWN_BASE_VERSION
        if version - base > max_staleness:
            return Reject.TOO_STALE
        if update.update_id in self._ids or update.client in self._by_base.get(base, ()):
            return Reject.DUPLICATE_UPDATE
        return None

    def add(self, client: str, base_version: int, update_id: str) -> None:
        """Note an accepted update."""
        self._by_base.setdefault(base_version, {})[client] = update_id
        self._ids.add(update_id)

    def withdraw(self, client: str, base_version: int, update_id: str) -> None:
        """Drop an update that was accepted and then discarded; it may be sent again."""
        del self._by_base[base_version][client]
        self._ids.remove(update_id)

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

    def restore(self, first_version: int, rows: Iterable[tuple[int, str, str]]) -> None:
        """Continue from a saved state; raises TypeError or ValueError if it is damaged."""
        self.first_version = index(first_version)
        self._by_base, self._ids = {}, set()
        for base, client, update_id in rows:
            self.add(client, base, update_id)
