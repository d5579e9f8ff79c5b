"""The service's durable outbox: feedback and commands are on disk, fsynced, before they are acknowledged.

One SQLite file below ``home``. One thread writes: whatever waits goes into one transaction, so that many requests share
an fsync. The drainer (drainer.py) carries the rows to the log. When the disk or the file's limit is full, new records
are refused, and are accepted again as soon as there is room.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from core.errors import NotDurable
from core.logs import get_logger
from service.metrics import NOT_DURABLE
from service.threads import Loop

_GROUP: Final = 1_000
_WAITING_LIMIT: Final = 10_000
_BUSY_TIMEOUT_S: Final = 5.0
_SLACK_PAGES: Final = 256  # free pages that the file keeps for the next records
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS waiting (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS refused (
    seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, at REAL NOT NULL,
    reason TEXT NOT NULL
);
"""
_NAME: Final = "ALTER TABLE waiting ADD COLUMN name TEXT"  # files from before there were names lack it
_NewRow = tuple[str, str, bytes, str | None]
_log = get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A record that waits for the log."""

    seq: int
    topic: str
    key: str
    value: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """How many records wait for the log, and since when the oldest (seconds since 1970; None where none waits)."""

    count: int = 0
    oldest_at: float | None = None


class OutboxFile:
    """One connection to the file; made anew after an error. Not thread-safe: each thread has its own."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on disk when left. Raises sqlite3.Error or OSError."""
        connection = self._connection or self._open()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            self.close()  # which also rolls back
            raise

    def add(self, rows: Sequence[_NewRow]) -> None:
        """Store (topic, key, value, name) rows in order."""
        at = time.time()
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO waiting (topic, key, value, name, at) VALUES (?, ?, ?, ?, ?)",
                [(*row, at) for row in rows],
            )

    def oldest(self, limit: int) -> list[Row]:
        """The rows that wait longest."""
        connection = self._connection or self._open()
        rows = connection.execute("SELECT seq, topic, key, value FROM waiting ORDER BY seq LIMIT ?", (limit,))
        return [Row(seq=seq, topic=topic, key=key, value=value) for seq, topic, key, value in rows]

    def holds(self, name: str) -> bool:
        """True while a row of this name waits. Reads all that waits: an index would cost every acknowledgement a page."""
        connection = self._connection or self._open()
        return connection.execute("SELECT 1 FROM waiting WHERE name = ? LIMIT 1", (name,)).fetchone() is not None

    def forget(self, through: int) -> None:
        """Remove the rows up to a sequence number."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM waiting WHERE seq <= ?", (through,))

    def set_aside(self, seq: int, reason: str) -> None:
        """Take a row out of the way that the log will never accept, and keep it with the reason."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO refused SELECT seq, topic, key, value, at, ? FROM waiting WHERE seq = ?",
                (reason, seq),
            )
            connection.execute("DELETE FROM waiting WHERE seq = ?", (seq,))

    def backlog(self) -> Backlog:
        """How much waits. Rows leave in order, so the two ends tell the count without a scan."""
        connection = self._connection or self._open()
        first = connection.execute("SELECT seq, at FROM waiting ORDER BY seq LIMIT 1").fetchone()
        last = connection.execute("SELECT seq FROM waiting ORDER BY seq DESC LIMIT 1").fetchone()
        if first is None or last is None:
            return Backlog()
        return Backlog(count=last[0] - first[0] + 1, oldest_at=first[1])

    def shrink(self) -> None:
        """Give the disk back what a backlog took. Best effort."""
        connection = self._connection or self._open()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free > _SLACK_PAGES:
            connection.execute("PRAGMA incremental_vacuum").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Opened by a thread, closed by the one that stops it: one at a time, but not the same.
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only a new file takes it
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            _add_names(connection)
            # After the schema, which must fit into a file that is full already: only then can it be drained.
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {max(16, self._max_bytes // page_size)}")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection


def _add_names(connection: sqlite3.Connection) -> None:
    """Bring a file of an older version up to date."""
    if _has_names(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    if not _has_names(connection):  # another connection may have been faster
        connection.execute(_NAME)
    connection.execute("COMMIT")


def _has_names(connection: sqlite3.Connection) -> bool:
    return any(column[1] == "name" for column in connection.execute("PRAGMA table_info(waiting)").fetchall())


@dataclass(slots=True)
class _Waiting:
    row: _NewRow
    done: "Future[None]" = field(default_factory=Future)


class Outbox:
    """The writing end. ``put`` returns when the record is safe."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self._file = OutboxFile(path, max_bytes=max_bytes)
        self._reader = OutboxFile(path, max_bytes=max_bytes)  # the other belongs to the thread that writes
        self._reading = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._failing = False
        self._closed = False
        self._on_commit: Callable[[], None] = _nothing
        self._loop = Loop("outbox", self._step)

    def start(self, on_commit: Callable[[], None]) -> None:
        """Begin to write; ``on_commit`` is called after each transaction."""
        self._on_commit = on_commit
        self._loop.start()

    @property
    def is_alive(self) -> bool:
        """True while records are written."""
        return self._loop.is_alive

    async def put(self, topic: str, key: str, value: bytes, *, name: str | None = None) -> None:
        """Make a record durable, which ``holds`` finds by its name.

        Raises NotDurable, after which it may or may not come through: repeat it by its id.
        """
        waiting = _Waiting((topic, key, value, name))
        with self._lock:
            if self._closed or len(self._waiting) >= _WAITING_LIMIT:
                NOT_DURABLE.inc()
                raise NotDurable
            self._waiting.append(waiting)
        self._loop.wake()
        await asyncio.wrap_future(waiting.done)

    def holds(self, name: str) -> bool:
        """True while a record of this name waits for the log, whichever process put it; blocks, from any thread.

        False also where the file cannot be read.
        """
        with self._reading:
            try:
                return self._reader.holds(name)
            except (sqlite3.Error, OSError) as error:
                self._reader.close()
                _log.warning("the outbox cannot be read", path=str(self.path), error=str(error))
                return False

    def stop(self, timeout_s: float) -> None:
        """Write what waits, then end."""
        with self._reading:
            self._reader.close()
        with self._lock:
            self._closed = True
        if self._loop.stop(timeout_s):
            while self._waiting:
                self._write()
            self._file.close()

    def _step(self) -> float:
        if not self._waiting:
            return 60.0
        self._write()
        return 0.0

    def _write(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP))]
        try:
            self._file.add([waiting.row for waiting in group])
        except Exception as error:  # whatever it was, nobody may believe that it is on disk
            self._refuse(group, error)
            return
        if self._failing:
            _log.info("the outbox keeps records again")
        self._failing = False
        for waiting in group:
            if waiting.done.set_running_or_notify_cancel():
                waiting.done.set_result(None)
        self._on_commit()

    def _refuse(self, group: list[_Waiting], error: Exception) -> None:
        NOT_DURABLE.inc(len(group))
        if not self._failing:
            _log.error("the outbox cannot keep records; feedback is refused", path=str(self.path), error=str(error))
        self._failing = True
        for waiting in group:
            if waiting.done.set_running_or_notify_cancel():
                waiting.done.set_exception(
                    NotDurable(f"the record could not be made durable ({error}); send it again later")
                )


def _nothing() -> None:
    """Until the start there is nobody to tell."""
