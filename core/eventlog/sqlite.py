"""The embedded event log: one SQLite file that the service, feedback and trainer processes of a machine share."""

import itertools
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from core.errors import BadSettings
from core.eventlog.base import LogRecord, NewRecord, StoredPositions, Subscription, check_sizes
from core.eventlog.sqlite_file import (
    EPOCH,
    MICROSECOND,
    Database,
    await_change,
    data_version,
    ensure_topic,
    fetch,
    find_topic,
)
from core.eventlog.sqlite_group import Membership, SqliteSubscription


class SqliteEventLog:
    """An event log in one SQLite file in WAL mode. See :class:`core.eventlog.base.EventLog`.

    Args:
        path: the file; its folder must exist.
        partitions: how many partitions a new topic gets.
        connect_timeout_s: seconds to wait for other processes' locks.
        heartbeat_s: seconds between a group member's signs of life, given while it polls.
        expiry_s: seconds without one after which its partitions go to the others.
        max_bytes: the size at which the file counts as full; None leaves that to the disk.

    Raises:
        BadSettings: ``expiry_s`` is not above ``heartbeat_s``.
    """

    def __init__(
        self,
        path: Path,
        *,
        partitions: int = 6,
        connect_timeout_s: float = 10.0,
        heartbeat_s: float = 1.0,
        expiry_s: float = 10.0,
        max_bytes: int | None = None,
    ) -> None:
        if not 0 < heartbeat_s < expiry_s:
            raise BadSettings(
                f"a heartbeat every {heartbeat_s} s cannot keep a membership that expires after {expiry_s} s"
            )
        self._database = Database(path, timeout_s=connect_timeout_s, max_bytes=max_bytes)
        self._partitions = partitions
        self._heartbeat_s = heartbeat_s
        self._expiry_s = expiry_s
        self._turns = itertools.count()

    def append(self, topic: str, records: Sequence[NewRecord]) -> None:
        """See EventLog.append. All records or none are stored."""
        check_sizes(records)
        if not records:
            return
        at_us = (datetime.now(UTC) - EPOCH) // MICROSECOND
        with self._database.transaction() as connection:
            topic_id, ends = ensure_topic(connection, topic, self._partitions)
            rows = []
            for record in records:
                partition = zlib.crc32(record.key.encode()) % len(ends)
                rows.append((topic_id, partition, ends[partition], record.key, record.value, at_us))
                ends[partition] += 1
            connection.executemany(
                "INSERT INTO records (topic_id, partition, position, key, value, at_us) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
            connection.executemany(
                "UPDATE partitions SET end = ? WHERE topic_id = ? AND number = ?",
                [(ends[partition], topic_id, partition) for partition in {row[1] for row in rows}],
            )

    def read(self, topic: str, positions: Mapping[int, int], *, limit: int, timeout_s: float = 0.0) -> list[LogRecord]:
        """See EventLog.read."""
        deadline = time.monotonic() + timeout_s
        topic_id, _ = find_topic(self._database, topic, self._partitions)
        with self._database.lend() as connection:
            while True:
                version = data_version(connection)
                records = fetch(connection, topic, topic_id, positions, limit=limit, turn=next(self._turns))
                if records or time.monotonic() >= deadline:
                    return records
                await_change(connection, version, deadline)

    def ends(self, topic: str) -> dict[int, int]:
        """See EventLog.ends."""
        return find_topic(self._database, topic, self._partitions)[1]

    def subscribe(self, topic: str, group: str, stored_positions: StoredPositions) -> Subscription:
        """See EventLog.subscribe. The member joins with its first poll."""
        membership = Membership(
            topic=topic,
            group=group,
            partitions=self._partitions,
            heartbeat_s=self._heartbeat_s,
            expiry_s=self._expiry_s,
        )
        return SqliteSubscription(self._database, membership, stored_positions)

    def close(self) -> None:
        """See EventLog.close."""
        self._database.close()
