"""Where gateways keep what they have in common: an SQLite file, or a PostgreSQL server.

One schema and one way of writing for both. A transaction that decides something first locks what
it decides about: in PostgreSQL the row that it reads (``SELECT … FOR UPDATE``), in SQLite, which
has no such lock, the file (``BEGIN IMMEDIATE``). So of two gateways that decide about the same
thing, one goes first and the other sees what it did.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql.compiler import SQLCompiler

from fl_protocol.codes import Code, ConfigInvalid, GatewayUnavailable
from fl_protocol.storage import stored

METADATA = sql.MetaData()

TICKETS = sql.Table(
    "tickets",
    METADATA,
    sql.Column("hash", sql.Text, primary_key=True),
    sql.Column("role", sql.Text, nullable=False),
    sql.Column("name", sql.Text, nullable=False),
    sql.Column("expires_at", sql.Double, nullable=False),
    sql.Column("used_by", sql.Text),
)
CLIENTS = sql.Table(
    "clients",
    METADATA,
    sql.Column("client_id", sql.Text, primary_key=True),
    sql.Column("role", sql.Text, nullable=False),
    sql.Column("identity_key", sql.LargeBinary, nullable=False, unique=True),
)
FAMILIES = sql.Table(
    "families",
    METADATA,
    sql.Column("family", sql.Text, primary_key=True),
    sql.Column("client_id", sql.ForeignKey("clients.client_id"), nullable=False),
    sql.Column("jkt", sql.Text, nullable=False),
    sql.Column("expires_at", sql.Double, nullable=False),
)
REFRESH_TOKENS = sql.Table(
    "refresh_tokens",
    METADATA,
    sql.Column("hash", sql.Text, primary_key=True),
    sql.Column("family", sql.ForeignKey("families.family"), nullable=False, index=True),
    # When it was exchanged for its successor, 0 before.
    sql.Column("used", sql.Double, nullable=False, server_default="0"),
)
REVOKED = sql.Table(
    "revoked",
    METADATA,
    sql.Column("kind", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, primary_key=True),
)
# Proofs and grants, which are good once.
USED = sql.Table(
    "used",
    METADATA,
    sql.Column("kind", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, primary_key=True),
    sql.Column("expires_at", sql.Double, nullable=False, index=True),
)
# Updates of which a client was told that they were not taken in.
REFUSALS = sql.Table(
    "refusals",
    METADATA,
    sql.Column("client_id", sql.Text, primary_key=True),
    sql.Column("update_id", sql.Text, primary_key=True),
    sql.Column("epoch", sql.BigInteger, primary_key=True),
    sql.Column("expires_at", sql.Double, nullable=False, index=True),
)

_PATIENCE = 5
_BUSY_SECONDS = 0.01
_SCHEMA_LOCK = 0x61737963
_POSTGRES = "postgresql"
_MILLISECONDS = 1000


def is_url(location: str) -> bool:
    """Tell a database server's address from the path of a file."""
    return "://" in location


class Database:
    """A connection pool to the shared database; safe to use from several threads.

    Parameters
    ----------
    location : str or Path
        An SQLite file, created when missing, mode 0600; or ``postgresql://…``, for which psycopg
        has to be installed (extra ``postgres``). Missing tables are created.

    Raises
    ------
    ConfigInvalid
        The location is not usable.
    GatewayUnavailable
        ``REGISTRY_UNAVAILABLE``: there is no answer from it.
    StorageFailed
        The file belongs to somebody else, or cannot be written.
    """

    def __init__(self, location: str | Path) -> None:
        self._durable = _engine(location, single=False)
        self._single = _engine(location, single=True)
        with self.transaction() as connection:
            if connection.dialect.name == _POSTGRES:
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            METADATA.create_all(connection)
        if not is_url(str(location)):
            with stored(str(location)):
                Path(location).chmod(0o600)

    def close(self) -> None:
        """Close all connections."""
        for engine in (self._durable, self._single):
            engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sql.Connection]:
        """Decide something: all of the block is done and survives a loss of power, or nothing.

        Raises
        ------
        GatewayUnavailable
            ``REGISTRY_UNAVAILABLE``. When the connection was lost at the very end, it is not
            known whether the block was done.
        """
        with _reached(), self._durable.begin() as connection:
            yield connection

    @contextmanager
    def statements(self) -> Iterator[sql.Connection]:
        """Each statement is a transaction of its own, which a loss of power may undo.

        Losing the last moment of such costs nothing that a restart of the machine does not.
        Raises as `transaction` does.
        """
        with _reached(), self._single.connect() as connection:
            yield connection

    def prepared(
        self, statement: sql.ClauseElement, columns: Sequence[str] | None = None
    ) -> Callable[..., Sequence[Any]]:
        """Return what runs a statement as `statements` does, in a third of the time.

        For what every call needs.

        Parameters
        ----------
        statement : ClauseElement
            It returns rows. Its values are those that the driver takes, without lists.
        columns : sequence of str, optional
            Those that an insert fills.

        Returns
        -------
        callable
            Takes the parameters by name, all of them, and returns the rows; raises as `transaction`
            does.
        """
        compiled = statement.compile(dialect=self._single.dialect, column_keys=columns)
        assert isinstance(compiled, SQLCompiler)
        text, defaults, order = str(compiled), compiled.params, compiled.positiontup
        wanted = {name for name, bound in compiled.binds.items() if bound.required}

        def run(**parameters: Any) -> Sequence[Any]:
            if parameters.keys() != wanted:
                raise TypeError(f"the statement takes {sorted(wanted)}")
            named = {**defaults, **parameters}
            values = named if order is None else [named[name] for name in order]
            with self._lent() as connection:
                cursor = connection.cursor()
                cursor.execute(text, values)
                return cursor.fetchall()

        return run

    @contextmanager
    def _lent(self) -> Iterator[sql.PoolProxiedConnection]:
        """Lend a driver's connection; where one fails, none of its time is used again."""
        driver_error = self._single.dialect.loaded_dbapi.Error
        with _reached(driver_error):
            connection = self._single.raw_connection()
            try:
                yield connection
            except driver_error:
                connection.invalidate()
                self._single.dispose()
                raise
            finally:
                connection.close()

    def insert_new(self, table: sql.Table, **values: Any) -> sql.Insert:
        """Return the statement that inserts a row unless one with one of its keys exists."""
        # Only the dialect in use is loaded: the other one takes memory, too.
        dialect = import_module(f"sqlalchemy.dialects.{self._durable.dialect.name}")
        insert: sql.Insert = dialect.insert(table).values(**values).on_conflict_do_nothing()
        return insert


@contextmanager
def _reached(*driver_errors: type[Exception]) -> Iterator[None]:
    failures: tuple[type[Exception], ...] = (SQLAlchemyError, *driver_errors)
    try:
        yield
    except failures as error:
        # Its text may show what was asked, and with it digests of secrets.
        cause = error.orig if isinstance(error, DBAPIError) else error
        kind = getattr(cause, "sqlite_errorname", type(cause).__name__)
        raise GatewayUnavailable(
            Code.REGISTRY_UNAVAILABLE, f"The gateway's registry does not answer ({kind})."
        ) from error


def _engine(location: str | Path, *, single: bool) -> sql.Engine:
    """Return a pool of connections, for transactions or for single statements."""
    text = str(location)
    if not is_url(text):
        return _sqlite(Path(location), single)
    try:
        url = sql.make_url(text)
        if url.get_backend_name() != _POSTGRES:
            raise ValueError(f"a {url.get_backend_name()} database is not supported")
        # psycopg 3 is the one of the extra "postgres", whatever the address leaves open.
        return _postgresql(url.set(drivername=f"{_POSTGRES}+psycopg"), single)
    except ImportError as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, "A registry in PostgreSQL needs: pip install 'asynclave[postgres]'"
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"The registry's address is not usable: {type(error).__name__}."
        ) from error


def _postgresql(url: sql.URL, single: bool) -> sql.Engine:
    patience = _PATIENCE * _MILLISECONDS
    settings = {
        "synchronous_commit": "off" if single else "on",
        "lock_timeout": str(patience),
        "statement_timeout": str(patience),
    }
    return sql.create_engine(
        url,
        pool_timeout=_PATIENCE,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT" if single else None,
        connect_args={
            "connect_timeout": _PATIENCE,
            "client_encoding": "utf8",
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        },
    )


def _sqlite(path: Path, single: bool) -> sql.Engine:
    url = sql.URL.create("sqlite", database=str(path))
    engine = sql.create_engine(
        url, pool_timeout=_PATIENCE, hide_parameters=True, connect_args={"timeout": _PATIENCE}
    )

    @sql.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        # Transactions begin below, not when sqlite3 thinks so.
        connection.isolation_level = None
        _write_ahead(connection)
        connection.execute(f"PRAGMA synchronous={'NORMAL' if single else 'FULL'}")
        connection.execute("PRAGMA foreign_keys=ON")

    if not single:

        @sql.event.listens_for(engine, "begin")
        def begin(connection: sql.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Have a file keep a write-ahead log; SQLite itself does not wait for others that do so."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
        time.sleep(_BUSY_SECONDS)
