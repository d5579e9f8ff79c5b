"""How the example store connects: SQLite with a write-ahead log, or PostgreSQL, behind one set of rules."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from core.errors import BadRecord, BadSettings, StoreUnavailable
from core.settings import without_password

_BUSY_TIMEOUT_MS: Final = 10_000


def open_engine(url: str) -> Engine:
    """An engine for the URL; nothing is connected yet. Raises BadSettings."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            shown = without_password(url)
            raise BadSettings(f"examples_url is {shown!r}; it must be sqlite:///PATH or postgresql+psycopg://…")
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
    except (ArgumentError, ImportError) as error:
        raise BadSettings(f"examples_url cannot be used: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"the folder of the example store cannot be made: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling begins late and never IMMEDIATE; SQLAlchemy's documentation says to take over.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    _enter_wal(cursor)
    # After a power cut the newest transactions may be gone, positions included: they are consumed again from the log.
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()


def _enter_wal(cursor: sqlite3.Cursor) -> None:
    """Programs that open a fresh file at once collide here, and SQLite does not wait by itself."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if (error.sqlite_errorcode or 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("ratchet_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def connected(engine: Engine, *, write: bool) -> Iterator[Connection]:
    """A connection in one transaction, committed on leaving.

    Raises:
        StoreUnavailable: the database cannot be used; the same may succeed later.
        BadRecord: a value that the database refuses; the same would be refused again.
    """
    try:
        with engine.connect() as plain:
            connection = plain.execution_options(ratchet_write=write)
            with connection.begin():
                yield connection
    except (DataError, IntegrityError) as error:
        raise BadRecord(f"the example store cannot keep this: {error.orig}") from error
    except DBAPIError as error:
        raise StoreUnavailable(f"the example store cannot be used: {error.orig}") from error
    except StatementError as error:
        raise BadRecord(f"the example store cannot keep this: {error.orig}") from error
    except (SQLAlchemyError, sqlite3.Error) as error:  # the driver's own come from preparing a connection
        raise StoreUnavailable(f"the example store cannot be used: {error}") from error


def insert_into(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An insert that can say what is to be done with rows that are there already."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table)


def migrate(engine: Engine) -> None:
    """Bring the tables to the newest schema; safe when several programs do it at once. Raises StoreUnavailable."""
    config = Config()
    config.set_main_option("script_location", str(resources.files("core.examples") / "migrations"))
    config.attributes["configure_logger"] = False
    with connected(engine, write=True) as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(727463)")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
