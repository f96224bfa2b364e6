"""What gateways must not do twice between them: take a proof, hand in a refused update."""

from __future__ import annotations

import threading

import sqlalchemy as sql

from fl_protocol.header import Header
from fl_protocol.ports import Clock
from fl_protocol.replay import ReplayMemory
from fl_server.gateway.database import REFUSALS, USED, Database

_PRUNE_SECONDS = 10.0
# The enclave takes no update that is older.
_UPDATE_SECONDS = 86_400.0
# Another gateway's clock may be so far behind.
_CLOCK_MARGIN = 300.0


class SharedReplayMemory:
    """Remembers what was used at any gateway for as long as it could be used again.

    Parameters
    ----------
    database : Database
        What the gateways share.
    kind : str
        Things of different kinds may have the same name.
    seconds, capacity
        See `ReplayMemory`. The capacity is that of this gateway, so none can fill the database.
    """

    def __init__(
        self, database: Database, kind: str, seconds: float, capacity: int = 100_000
    ) -> None:
        self._database, self._kind, self._seconds = database, kind, seconds
        self._own = ReplayMemory(seconds, capacity)
        self._lock = threading.Lock()
        self._pruned = 0.0
        # Not its row count, which not every driver knows.
        inserted = database.insert_new(USED).returning(USED.c.kind)
        self._insert = database.prepared(inserted, USED.columns.keys())

    def use(self, thing: str, now: float) -> bool:
        """Use something up at `now` (seconds); False if it was used before, here or elsewhere.

        Raises
        ------
        GatewayUnavailable
            ``OVERLOADED`` when too many live things are remembered, ``REGISTRY_UNAVAILABLE``.
        """
        with self._lock:
            if not self._own.use(thing, now):
                return False
            due = abs(now - self._pruned) > _PRUNE_SECONDS
            if due:
                self._pruned = now
        if due:
            with self._database.statements() as connection:
                connection.execute(sql.delete(USED).where(USED.c.expires_at < now - _CLOCK_MARGIN))
        return bool(self._insert(kind=self._kind, value=thing, expires_at=now + self._seconds))


class Refusals:
    """Which updates some gateway answered with a refusal: no journal may hand these in again.

    Parameters
    ----------
    database : Database
        What the gateways share.
    clock : Clock
        Says when an update can be forgotten, because the enclave would not take it any more.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def note(self, header: Header) -> None:
        """Remember a refused update; raises GatewayUnavailable ``REGISTRY_UNAVAILABLE``."""
        now = self._clock.now()
        with self._database.transaction() as connection:
            connection.execute(
                sql.delete(REFUSALS).where(REFUSALS.c.expires_at < now - _CLOCK_MARGIN)
            )
            connection.execute(
                self._database.insert_new(
                    REFUSALS, expires_at=now + _UPDATE_SECONDS, **_name(header)
                )
            )

    def noted(self, header: Header) -> bool:
        """Tell whether an update was refused; raises as `note` does."""
        named = (REFUSALS.c[column] == value for column, value in _name(header).items())
        with self._database.statements() as connection:
            return (
                connection.execute(sql.select(REFUSALS.c.epoch).where(*named)).first() is not None
            )


def _name(header: Header) -> dict[str, str | int]:
    return {
        "client_id": header.client_id,
        "update_id": header.update_id,
        "epoch": header.epoch,
    }
