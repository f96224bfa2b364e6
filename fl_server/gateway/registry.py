"""Durable record of who may do what: tickets, clients, refresh families, revocations.

Several gateways may share it. Secrets (tickets, refresh tokens) are stored as SHA-256 only, so a
copied database cannot be used to enrol or to renew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sql

from fl_protocol.codes import Code, EnrolmentRejected, TokenRejected
from fl_protocol.tokens import MAX_TTL, REFRESH_GRACE, SKEW
from fl_server.gateway.database import (
    CLIENTS,
    FAMILIES,
    REFRESH_TOKENS,
    REVOKED,
    TICKETS,
    Database,
)

# Of one client; nobody needs more, and without a bound one could fill the database.
MOST_FAMILIES = 16

_KINDS = ("client", "family", "jti", "kid")
# Asked on every call, so it is put together once.
_WHICH_REVOKED = sql.select(REVOKED.c.kind).where(
    sql.or_(
        *(
            sql.and_(REVOKED.c.kind == kind, REVOKED.c.value == sql.bindparam(kind))
            for kind in _KINDS
        )
    )
)


@dataclass(frozen=True)
class Client:
    """An enrolled client.

    Attributes
    ----------
    client_id : str
        Ticket name plus a prefix of the identity key's digest.
    role : str
        "client" or "server".
    identity_key : bytes
        Raw Ed25519 public key, 32 bytes.
    """

    client_id: str
    role: str
    identity_key: bytes


@dataclass(frozen=True)
class Family:
    """A chain of refresh tokens descending from one enrolment or identity proof."""

    family: str
    client_id: str
    jkt: str


def digest(secret: str) -> str:
    """SHA-256 of a ticket or refresh token, hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Registry:
    """Decisions about tickets, refresh tokens and revocations, one transaction each.

    Parameters
    ----------
    database : Database
        What the gateways share.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._which_revoked = database.prepared(_WHICH_REVOKED)

    def add_ticket(self, ticket: str, role: str, name: str, expires_at: float) -> None:
        """Register a single-use enrolment ticket (only its digest is kept)."""
        row = {"hash": digest(ticket), "role": role, "name": name, "expires_at": expires_at}
        with self._database.transaction() as connection:
            connection.execute(sql.insert(TICKETS).values(row))

    def redeem(self, ticket: str, identity_key: bytes, now: float) -> Client:
        """Turn a ticket into an enrolled client.

        The same identity key may repeat the call at any time: its first reply may have been lost.

        Raises
        ------
        EnrolmentRejected
            ENROL_TICKET_INVALID for an unknown or expired ticket, ENROL_TICKET_USED when
            another identity key redeemed it, IDENTITY_INVALID when the key holds another role.
        """
        this = TICKETS.c.hash == digest(ticket)
        with self._database.transaction() as connection:
            row = connection.execute(sql.select(TICKETS).where(this).with_for_update()).first()
            if row is None or (row.used_by is None and row.expires_at < now):
                raise EnrolmentRejected(Code.ENROL_TICKET_INVALID)
            if row.used_by is not None and row.used_by != identity_key.hex():
                raise EnrolmentRejected(Code.ENROL_TICKET_USED)
            client = self._enrolled(connection, row.name, row.role, identity_key)
            connection.execute(sql.update(TICKETS).where(this).values(used_by=identity_key.hex()))
        return client

    def client(self, client_id: str) -> Client | None:
        """Look an enrolled client up."""
        with self._database.statements() as connection:
            return _client(connection, CLIENTS.c.client_id == client_id)

    def start_family(
        self, family: Family, refresh_token: str, now: float, expires_at: float
    ) -> None:
        """Begin a refresh family with its first token; a client's oldest make room for it."""
        with self._database.transaction() as connection:
            connection.execute(sql.insert(FAMILIES).values(expires_at=expires_at, **vars(family)))
            _add_refresh_token(connection, refresh_token, family.family)
            _forget_oldest(connection, family, now)

    def rotate(self, old: str, new: str, client_id: str, jkt: str, now: float) -> Family:
        """Exchange a refresh token for its successor (RFC 9700 section 4.14.2).

        Whoever holds the proof key may repeat the exchange for `REFRESH_GRACE` seconds, as long
        as the successor is unused: the first reply may have been lost. The clock of the gateway
        asked again may be up to `SKEW` seconds behind.

        Parameters
        ----------
        old : str
            What was presented.
        new : str
            Its successor, the same for each exchange of the same token.
        client_id : str
            Who the caller says it is.
        jkt : str
            Thumbprint of the proof key of the caller, which has shown that it holds it.
        now : float
            Unix seconds.

        Raises
        ------
        TokenRejected
            REFRESH_REUSED when the token was exchanged before: the whole family is revoked,
            because one of the two holders is a thief. Any other refusal changes nothing:
            TOKEN_MALFORMED, TOKEN_CLAIMS for another client's token, PROOF_INVALID,
            TOKEN_REVOKED, TOKEN_EXPIRED.
        """
        with self._database.transaction() as connection:
            row = connection.execute(_presented(old)).first()
            if row is None:
                raise TokenRejected(Code.TOKEN_MALFORMED, "the refresh token is not known here")
            family = Family(row.family, row.client_id, row.jkt)
            if family.client_id != client_id:
                raise TokenRejected(Code.TOKEN_CLAIMS, "the refresh token is another client's")
            repeated = bool(row.used) and (
                jkt == family.jkt
                and -SKEW <= now - row.used <= REFRESH_GRACE
                and _is_unused(connection, new, family)
            )
            reused = bool(row.used) and not repeated
            if reused:
                connection.execute(self._revocation("family", family.family))
            elif family.jkt != jkt:
                raise TokenRejected(Code.PROOF_INVALID, "the refresh token is bound to another key")
            elif _revoked(connection, family=family.family, client=family.client_id):
                raise TokenRejected(Code.TOKEN_REVOKED)
            elif row.expires_at < now:
                raise TokenRejected(Code.TOKEN_EXPIRED)
            elif not repeated:
                connection.execute(
                    sql.update(REFRESH_TOKENS)
                    .where(REFRESH_TOKENS.c.hash == digest(old))
                    .values(used=now)
                )
                _add_refresh_token(connection, new, family.family)
        # Raised outside the transaction: the revocation above must be committed.
        if reused:
            raise TokenRejected(Code.REFRESH_REUSED)
        return family

    def prune(self, now: float) -> None:
        """Forget what nobody can use any more: expired refresh families and unused tickets.

        A family is kept until the last access token it may have led to has expired, too.
        """
        ended = now - MAX_TTL - SKEW
        families = sql.select(FAMILIES.c.family).where(FAMILIES.c.expires_at < ended)
        with self._database.transaction() as connection:
            for statement in (
                sql.delete(REFRESH_TOKENS).where(REFRESH_TOKENS.c.family.in_(families)),
                sql.delete(REVOKED).where(
                    REVOKED.c.kind == "family", REVOKED.c.value.in_(families)
                ),
                sql.delete(FAMILIES).where(FAMILIES.c.expires_at < ended),
                sql.delete(TICKETS).where(
                    TICKETS.c.used_by.is_(None), TICKETS.c.expires_at < ended
                ),
            ):
                connection.execute(statement)

    def revoke(self, kind: str, value: str) -> None:
        """Revoke a "client", "family", "jti" or "kid" (a token-signing key's id).

        Takes effect on the next call at any gateway.
        """
        with self._database.transaction() as connection:
            connection.execute(self._revocation(kind, value))

    def revoked(self, **names: str) -> Set[str]:
        """Return which of the given names are revoked, by kind; see `revoke`."""
        return {kind for (kind,) in self._which_revoked(**_asked(names))}

    def _revocation(self, kind: str, value: str) -> sql.Insert:
        return self._database.insert_new(REVOKED, kind=kind, value=value)

    def _enrolled(
        self, connection: sql.Connection, name: str, role: str, identity_key: bytes
    ) -> Client:
        # The key's digest makes ids of one name distinct: a lost identity enrols afresh.
        client_id = f"{name}-{hashlib.sha256(identity_key).hexdigest()[:8]}"
        connection.execute(
            self._database.insert_new(
                CLIENTS, client_id=client_id, role=role, identity_key=identity_key
            )
        )
        client = _client(connection, CLIENTS.c.identity_key == identity_key)
        if client is None or client.role != role:
            raise EnrolmentRejected(
                Code.IDENTITY_INVALID,
                "this identity key is enrolled in another role, or another key under this name; "
                "use a fresh identity directory",
            )
        return client


@contextmanager
def open_registry(location: str | Path) -> Iterator[Registry]:
    """Open a registry for a while; `location` and errors as for `Database`."""
    database = Database(location)
    try:
        yield Registry(database)
    finally:
        database.close()


def _client(connection: sql.Connection, which: sql.ColumnElement[bool]) -> Client | None:
    row = connection.execute(sql.select(CLIENTS).where(which)).first()
    return None if row is None else Client(*row)


def _presented(token: str) -> sql.Select[tuple[object, ...]]:
    """Read a refresh token with its family, so that nobody else exchanges it meanwhile."""
    return (
        sql.select(FAMILIES, REFRESH_TOKENS.c.used)
        .join_from(REFRESH_TOKENS, FAMILIES)
        .where(REFRESH_TOKENS.c.hash == digest(token))
        .with_for_update()
    )


def _is_unused(connection: sql.Connection, token: str, family: Family) -> bool:
    statement = sql.select(REFRESH_TOKENS.c.used).where(
        REFRESH_TOKENS.c.hash == digest(token), REFRESH_TOKENS.c.family == family.family
    )
    return connection.execute(statement).scalar() == 0


def _add_refresh_token(connection: sql.Connection, token: str, family: str) -> None:
    connection.execute(sql.insert(REFRESH_TOKENS).values(hash=digest(token), family=family))


def _forget_oldest(connection: sql.Connection, begun: Family, now: float) -> None:
    others = sql.select(FAMILIES.c.family).where(
        FAMILIES.c.client_id == begun.client_id,
        FAMILIES.c.family != begun.family,
        FAMILIES.c.expires_at > now,
    )
    newest_first = others.order_by(FAMILIES.c.expires_at.desc())
    oldest = connection.scalars(newest_first.offset(MOST_FAMILIES - 1)).all()
    if not oldest:
        return
    connection.execute(sql.delete(REFRESH_TOKENS).where(REFRESH_TOKENS.c.family.in_(oldest)))
    revoked = sql.select(REVOKED.c.value).where(REVOKED.c.kind == "family")
    these = FAMILIES.c.family.in_(oldest)
    connection.execute(sql.delete(FAMILIES).where(these, FAMILIES.c.family.not_in(revoked)))
    # Access tokens name their family: `prune` forgets revoked ones when the last has expired.
    connection.execute(sql.update(FAMILIES).where(these).values(expires_at=now))


def _revoked(connection: sql.Connection, **names: str) -> Set[str]:
    return set(connection.execute(_WHICH_REVOKED, _asked(names)).scalars())


def _asked(names: Mapping[str, str]) -> dict[str, str]:
    return {kind: names.get(kind, "") for kind in _KINDS}
