"""The file behind the embedded log: its schema, its connections, its failures, and the queries both halves need."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from core.errors import BadSettings, LogUnavailable
from core.eventlog.base import LogRecord

SCHEMA_VERSION: Final = 1
LOOK_INTERVAL_S: Final = 0.025
"""How often a waiting reader looks whether the file has changed; that look reads one counter and no table."""

_SCHEMA: Final = (
    "CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    # the end is kept, not derived, so that offsets go on where they were after old records are removed
    """CREATE TABLE partitions (topic_id INTEGER NOT NULL, number INTEGER NOT NULL, end INTEGER NOT NULL,
       PRIMARY KEY (topic_id, number)) WITHOUT ROWID""",
    """CREATE TABLE records (id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, partition INTEGER NOT NULL,
       position INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, at_us INTEGER NOT NULL)""",
    "CREATE UNIQUE INDEX records_by_position ON records (topic_id, partition, position)",
    """CREATE TABLE members (topic_id INTEGER NOT NULL, group_name TEXT NOT NULL, member TEXT NOT NULL,
       beat_at_s REAL NOT NULL, expiry_s REAL NOT NULL, PRIMARY KEY (topic_id, group_name, member)) WITHOUT ROWID""",
    """CREATE TABLE claims (topic_id INTEGER NOT NULL, group_name TEXT NOT NULL, partition INTEGER NOT NULL,
       member TEXT NOT NULL, PRIMARY KEY (topic_id, group_name, partition)) WITHOUT ROWID""",
)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


class Database:
    """The file: brings its schema up to date, lends connections and turns SQLite's failures into LogUnavailable."""

    def __init__(self, path: Path, *, timeout_s: float, max_bytes: int | None) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # SQLite's own waiting for a lock sleeps up to 100 ms; threads of one process hand over faster by this one
        self._writing = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._file: tuple[int, int] | None = None

    @contextmanager
    def lend(self) -> Iterator[sqlite3.Connection]:
        """A connection for one thread. After any error it is closed, which rolls back what it had begun."""
        with self._failures():
            connection = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._take_back(connection)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a write transaction that is durable when the block ends."""
        if not self._writing.acquire(timeout=self._timeout_s):
            raise LogUnavailable(f"the event log {self._path} was busy for {self._timeout_s} s")
        try:
            with self.lend() as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        finally:
            self._writing.release()

    def close(self) -> None:
        """Close the idle connections; one that is lent is closed when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise LogUnavailable(f"the event log {self._path} was closed in this process")
            # a file that was removed or replaced would go on taking records that nobody can ever read
            if self._file is not None and self._file != _identity(self._path):
                while self._idle:
                    self._idle.pop().close()
            if self._idle:
                return self._idle.pop()
        connection = self._open()
        with self._lock:
            self._file = _identity(self._path)
        return connection

    def _take_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
        try:
            if self._max_bytes is not None:
                (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
                connection.execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // page_bytes)}")
            self._enter_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        """Two processes that create the file at once collide here, and SQLite does not wait by itself."""
        deadline = time.monotonic() + self._timeout_s
        mode = ""
        while not mode:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
                time.sleep(LOOK_INTERVAL_S)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self._schema_version(connection) == SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        if self._schema_version(connection) == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _schema_version(self, connection: sqlite3.Connection) -> int:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise BadSettings(
                f"the event log {self._path} has schema version {version}, this program knows up to {SCHEMA_VERSION}: "
                "upgrade this program"
            )
        return int(version)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LogUnavailable(f"the event log {self._path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            if _code(error) == sqlite3.SQLITE_NOTADB:
                raise BadSettings(f"{self._path} is not an event log: {error}; name another file") from error
            if _code(error) == sqlite3.SQLITE_CORRUPT:
                raise LogUnavailable(f"the event log {self._path} is damaged: {error}; restore a copy") from error
            raise


def data_version(connection: sqlite3.Connection) -> int:
    """A number that changes when another connection commits."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def await_change(connection: sqlite3.Connection, version: int, until: float) -> None:
    """Return once another connection has committed since ``version`` was read, or at ``until`` (monotonic seconds)."""
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(LOOK_INTERVAL_S, left))
        if data_version(connection) != version:
            return


def fetch(
    connection: sqlite3.Connection, topic: str, topic_id: int, positions: Mapping[int, int], *, limit: int, turn: int
) -> list[LogRecord]:
    """At most ``limit`` records at or after the positions; ``turn`` rotates which partition comes first."""
    partitions = sorted(positions)
    start = turn % max(1, len(partitions))
    records: list[LogRecord] = []
    for partition in partitions[start:] + partitions[:start]:
        if len(records) >= limit:
            break
        rows = connection.execute(
            """SELECT position, key, value, at_us FROM records
               WHERE topic_id = ? AND partition = ? AND position >= ? ORDER BY position LIMIT ?""",
            (topic_id, partition, positions[partition], limit - len(records)),
        )
        records += [
            LogRecord(
                topic=topic, partition=partition, offset=offset, key=key, value=value, at=EPOCH + at * MICROSECOND
            )
            for offset, key, value, at in rows
        ]
    return records


def find_topic(database: Database, name: str, partitions: int) -> tuple[int, dict[int, int]]:
    """The id of a topic and the end of each of its partitions; a topic that is missing gets ``partitions``."""
    with database.lend() as connection:
        found = _find_topic(connection, name)
    if found is not None:
        return found
    with database.transaction() as connection:
        return ensure_topic(connection, name, partitions)


def _find_topic(connection: sqlite3.Connection, name: str) -> tuple[int, dict[int, int]] | None:
    rows = connection.execute(
        "SELECT id, number, end FROM topics JOIN partitions ON topic_id = id WHERE name = ? ORDER BY number", (name,)
    ).fetchall()
    return (rows[0][0], {number: end for _, number, end in rows}) if rows else None


def ensure_topic(connection: sqlite3.Connection, name: str, partitions: int) -> tuple[int, dict[int, int]]:
    """Find or create a topic inside a write transaction. Returns its id and the end of each of its partitions."""
    found = _find_topic(connection, name)
    if found is not None:
        return found
    (topic_id,) = connection.execute("INSERT INTO topics (name) VALUES (?) RETURNING id", (name,)).fetchone()
    ends = dict.fromkeys(range(partitions), 0)
    connection.executemany("INSERT INTO partitions VALUES (?, ?, 0)", [(topic_id, number) for number in ends])
    return topic_id, ends


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _code(error: sqlite3.Error) -> int:
    """The primary result code; SQLite keeps the details in the higher bits."""
    return error.sqlite_errorcode & 0xFF if error.sqlite_errorcode is not None else 0
