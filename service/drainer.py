"""The outbox's other end: carries its rows to the log, in order, at least once.

Of several processes on one outbox only one drains, the holder of a file lock: or they would send everything twice.
"""

import fcntl
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from core.errors import BadRecord, LogUnavailable
from core.eventlog.base import EventLog, NewRecord
from core.logs import get_logger
from service.metrics import LOG_ERRORS, OUTBOX_REFUSED
from service.outbox import Backlog, OutboxFile, Row
from service.threads import Backoff, Loop

_BATCH: Final = 500
_POLL_S: Final = 1.0
_log = get_logger()


class Drainer:
    """The thread that empties the outbox."""

    def __init__(self, path: Path, log: EventLog, *, max_bytes: int) -> None:
        self._event_log = log
        self._file = OutboxFile(path, max_bytes=max_bytes)
        self._lock = _FileLock(path.with_name(path.name + ".lock"))
        self._sent_through = 0  # rows that the log has but the outbox could not forget yet
        self._backoff = Backoff()
        self._failing = False
        self._backlog = Backlog()
        self._loop = Loop("drainer", self._step)

    def start(self) -> None:
        """Begin to drain."""
        self._loop.start()

    def wake(self) -> None:
        """There is something new."""
        self._loop.wake()

    @property
    def backlog(self) -> Backlog:
        """How much waits, as of the last look."""
        return self._backlog

    def stop(self, timeout_s: float) -> None:
        """Drain what is there, at most for ``timeout_s`` seconds; the rest stays on disk for the next start."""
        deadline = time.monotonic() + timeout_s
        if self._loop.stop(timeout_s):
            try:
                while time.monotonic() < deadline and self._lock.take() and self._drain_some():
                    pass
            except (LogUnavailable, sqlite3.Error, OSError) as error:
                _log.warning("the outbox was not drained to the end; its rows stay on disk", error=str(error))
            self._file.close()
            self._lock.release()

    def _step(self) -> float:
        try:
            if self._lock.take():
                while self._drain_some() and not self._loop.is_stopping:
                    self._recovered()
            self._recovered()
            self._backlog = self._file.backlog()
            if not self._backlog.count:
                self._file.shrink()
        except (LogUnavailable, sqlite3.Error, OSError) as error:
            self._failed(error)
            return 0.0
        return _POLL_S

    def _drain_some(self) -> bool:
        """Send the oldest rows; False when there was none."""
        rows = self._file.oldest(_BATCH)
        if not rows:
            return False
        fresh = [row for row in rows if row.seq > self._sent_through]
        for topic, group in _runs(fresh):
            self._send(topic, group)
        self._file.forget(rows[-1].seq)
        self._sent_through = 0
        return True

    def _send(self, topic: str, rows: list[Row]) -> None:
        try:
            self._event_log.append(topic, [NewRecord(key=row.key, value=row.value) for row in rows])
        except BadRecord as error:
            if len(rows) > 1:  # find the one that is to blame
                for row in rows:
                    self._send(topic, [row])
                return
            OUTBOX_REFUSED.inc()
            _log.error("the log refuses a record for good; it is set aside", key=rows[0].key, reason=str(error))
            self._file.set_aside(rows[0].seq, str(error))
        self._sent_through = rows[-1].seq

    def _failed(self, error: Exception) -> None:
        LOG_ERRORS.inc()
        if not self._failing:
            _log.warning("the outbox cannot be drained; feedback waits on disk", error=str(error))
        self._failing = True
        try:
            self._backlog = self._file.backlog()
        except (sqlite3.Error, OSError):
            self._file.close()
        self._loop.pause(self._backoff.failed())

    def _recovered(self) -> None:
        if self._failing:
            _log.info("the outbox drains again")
        self._failing = False
        self._backoff.succeeded()


def _runs(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Neighbours of one topic together, in order."""
    runs: list[tuple[str, list[Row]]] = []
    for row in rows:
        if not runs or runs[-1][0] != row.topic:
            runs.append((row.topic, []))
        runs[-1][1].append(row)
    return runs


class _FileLock:
    """Held by one process at a time; the system lets go of it when the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """True if this process holds it (now)."""
        if self._descriptor is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
