"""Durable record of who may do what: tickets, clients, refresh families, revocations.

One SQLite file in WAL mode. Secrets (tickets, refresh tokens) are stored as SHA-256 only, so a
copied file cannot be used to enrol or to renew.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fl_protocol.codes import Code, EnrolmentRejected, TokenRejected
from fl_protocol.tokens import MAX_TTL, SKEW

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tickets (
    hash TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, expires_at REAL NOT NULL,
    used_by TEXT);
CREATE TABLE IF NOT EXISTS clients (
    client_id TEXT PRIMARY KEY, role TEXT NOT NULL, identity_key BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS families (
    family TEXT PRIMARY KEY, client_id TEXT NOT NULL REFERENCES clients(client_id),
    jkt TEXT NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS refresh_tokens (
    hash TEXT PRIMARY KEY, family TEXT NOT NULL REFERENCES families(family),
    used INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS revoked (
    kind TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, value));
"""


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
    """The registry file; safe to open from several processes.

    Parameters
    ----------
    path : Path
        SQLite file, created with its tables when missing.
    """

    def __init__(self, path: Path) -> None:
        # Statements are single transactions, so a second thread may share the connection.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_ticket(self, ticket: str, role: str, name: str, expires_at: float) -> None:
        """Register a single-use enrolment ticket (only its digest is kept)."""
        self._db.execute(
            "INSERT INTO tickets (hash, role, name, expires_at) VALUES (?, ?, ?, ?)",
            (digest(ticket), role, name, expires_at),
        )

    def redeem(self, ticket: str, identity_key: bytes, now: float) -> Client:
        """Turn a ticket into an enrolled client.

        The same identity key may repeat the call: its first reply may have been lost.

        Raises
        ------
        EnrolmentRejected
            ENROL_TICKET_INVALID for an unknown or expired ticket, ENROL_TICKET_USED when
            another identity key redeemed it, IDENTITY_INVALID when the key holds another role.
        """
        with self._transaction():
            row = self._db.execute(
                "SELECT role, name, expires_at, used_by FROM tickets WHERE hash = ?",
                (digest(ticket),),
            ).fetchone()
            if row is None or row[2] < now:
                raise EnrolmentRejected(Code.ENROL_TICKET_INVALID)
            role, name, _, used_by = row
            if used_by is not None and used_by != identity_key.hex():
                raise EnrolmentRejected(Code.ENROL_TICKET_USED)
            known = self._client_by_key(identity_key)
            if known is not None and known.role != role:
                raise EnrolmentRejected(
                    Code.IDENTITY_INVALID,
                    "this identity key is enrolled in another role; use a fresh identity directory",
                )
            client = known or self._insert_client(name, role, identity_key)
            self._db.execute(
                "UPDATE tickets SET used_by = ? WHERE hash = ?",
                (identity_key.hex(), digest(ticket)),
            )
        return client

    def client(self, client_id: str) -> Client | None:
        """Look an enrolled client up."""
        row = self._db.execute(
            "SELECT client_id, role, identity_key FROM clients WHERE client_id = ?", (client_id,)
        ).fetchone()
        return None if row is None else Client(*row)

    def start_family(self, family: Family, refresh_token: str, expires_at: float) -> None:
        """Begin a refresh family with its first token."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO families (family, client_id, jkt, expires_at) VALUES (?, ?, ?, ?)",
                (family.family, family.client_id, family.jkt, expires_at),
            )
            self._add_refresh_token(refresh_token, family.family)

    def rotate(self, old: str, new: str, jkt: str, now: float) -> Family:
        """Exchange a refresh token for its successor (RFC 9700 section 4.14.2).

        Raises
        ------
        TokenRejected
            REFRESH_REUSED when the token was exchanged before: the whole family is revoked,
            because one of the two holders is a thief. TOKEN_REVOKED, TOKEN_EXPIRED,
            TOKEN_MALFORMED otherwise.
        """
        with self._transaction():
            row = self._db.execute(
                "SELECT f.family, f.client_id, f.jkt, f.expires_at, r.used FROM refresh_tokens r"
                " JOIN families f ON f.family = r.family WHERE r.hash = ?",
                (digest(old),),
            ).fetchone()
            if row is None:
                raise TokenRejected(Code.TOKEN_MALFORMED, "the refresh token is not known here")
            family = Family(row[0], row[1], row[2])
            reused = bool(row[4])
            if reused:
                self.revoke("family", family.family)
            elif self.is_revoked(family=family.family, client_id=family.client_id):
                raise TokenRejected(Code.TOKEN_REVOKED)
            elif row[3] < now:
                raise TokenRejected(Code.TOKEN_EXPIRED)
            elif family.jkt != jkt:
                raise TokenRejected(Code.PROOF_INVALID, "the refresh token is bound to another key")
            else:
                self._db.execute(
                    "UPDATE refresh_tokens SET used = 1 WHERE hash = ?", (digest(old),)
                )
                self._add_refresh_token(new, family.family)
        # Raised outside the transaction: the revocation above must be committed.
        if reused:
            raise TokenRejected(Code.REFRESH_REUSED)
        return family

    def prune(self, now: float) -> None:
        """Forget what nobody can use any more: expired refresh families and unused tickets.

        A family is kept until the last access token it may have led to has expired, too.
        """
        ended = now - MAX_TTL - SKEW
        with self._transaction():
            for statement in (
                "DELETE FROM refresh_tokens WHERE family IN"
                " (SELECT family FROM families WHERE expires_at < ?)",
                "DELETE FROM revoked WHERE kind = 'family' AND value IN"
                " (SELECT family FROM families WHERE expires_at < ?)",
                "DELETE FROM families WHERE expires_at < ?",
                "DELETE FROM tickets WHERE used_by IS NULL AND expires_at < ?",
            ):
                self._db.execute(statement, (ended,))

    def revoke(self, kind: str, value: str) -> None:
        """Revoke a "client", "family", "jti" or "kid" (a token-signing key's id).

        Takes effect on the next call.
        """
        self._db.execute("INSERT OR IGNORE INTO revoked (kind, value) VALUES (?, ?)", (kind, value))

    def is_revoked(
        self, *, client_id: str = "", family: str = "", jti: str = "", kid: str = ""
    ) -> bool:
        """Tell whether any of the given names is revoked."""
        row = self._db.execute(
            "SELECT 1 FROM revoked WHERE (kind = 'client' AND value = ?)"
            " OR (kind = 'family' AND value = ?) OR (kind = 'jti' AND value = ?)"
            " OR (kind = 'kid' AND value = ?) LIMIT 1",
            (client_id, family, jti, kid),
        ).fetchone()
        return row is not None

    def _client_by_key(self, identity_key: bytes) -> Client | None:
        row = self._db.execute(
            "SELECT client_id, role, identity_key FROM clients WHERE identity_key = ?",
            (identity_key,),
        ).fetchone()
        return None if row is None else Client(*row)

    def _insert_client(self, name: str, role: str, identity_key: bytes) -> Client:
        # The key's digest makes ids of one name distinct: a lost identity enrols afresh.
        client_id = f"{name}-{hashlib.sha256(identity_key).hexdigest()[:8]}"
        self._db.execute(
            "INSERT INTO clients (client_id, role, identity_key) VALUES (?, ?, ?)",
            (client_id, role, identity_key),
        )
        return Client(client_id, role, identity_key)

    def _add_refresh_token(self, token: str, family: str) -> None:
        self._db.execute(
            "INSERT INTO refresh_tokens (hash, family) VALUES (?, ?)", (digest(token), family)
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
