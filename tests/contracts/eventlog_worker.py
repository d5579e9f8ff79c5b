"""What the event log's contract suite runs in processes of its own, and shares with them.

python -m tests.contracts.eventlog_worker append|hold|consume ARGUMENTS
"""

import argparse
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from core.eventlog.base import EventLog, LogRecord, NewRecord
from core.eventlog.sqlite import SqliteEventLog

PARTITIONS = 4


def open_fast(url: str, *, connect_timeout_s: float = 5.0, expiry_s: float | None = None) -> EventLog:
    """As core.eventlog.open_log, with memberships that expire as fast as the log allows."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return SqliteEventLog(
            Path(rest.removeprefix("/")),
            partitions=PARTITIONS,
            connect_timeout_s=connect_timeout_s,
            heartbeat_s=0.1,
            expiry_s=expiry_s or 1.0,
        )
    from core.eventlog.kafka import KafkaEventLog  # noqa: PLC0415  only Kafka's tests pay for it

    return KafkaEventLog(
        rest.split(","),
        partitions=PARTITIONS,
        connect_timeout_s=connect_timeout_s,
        heartbeat_s=0.2,
        expiry_s=expiry_s or 2.0,
        max_poll_gap_s=10.0,
    )


class EffectStore:
    """A consumer's own database: an effect a record, and the positions, moved in one transaction."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=10, isolation_level=None)
        self._connection.execute("CREATE TABLE IF NOT EXISTS effects (partition INTEGER, offset INTEGER, value BLOB)")
        self._connection.execute("CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, next INTEGER)")

    def positions(self, partitions: frozenset[int] = frozenset()) -> Mapping[int, int]:
        """The stored positions of all partitions."""
        return dict(self._connection.execute("SELECT partition, next FROM positions"))

    def effects(self) -> list[tuple[int, int, bytes]]:
        """Every effect in the order it was made."""
        return self._connection.execute("SELECT partition, offset, value FROM effects ORDER BY rowid").fetchall()

    def apply(self, records: Sequence[LogRecord], *, between: Callable[[], None] = lambda: None) -> bool:
        """Make the effects and move the positions, or neither; False where another consumer was faster.

        ``between`` is called after each effect, before the positions move.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        for record in records:
            effect = (record.partition, record.offset, record.value)
            self._connection.execute("INSERT INTO effects VALUES (?, ?, ?)", effect)
            between()
        for partition in {record.partition for record in records}:
            offsets = [record.offset for record in records if record.partition == partition]
            if not self._move(partition, offsets[0], offsets[-1] + 1):
                self._connection.execute("ROLLBACK")
                return False
        self._connection.execute("COMMIT")
        return True

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _move(self, partition: int, before: int, after: int) -> bool:
        """Compare and set: only whoever read from the stored position may move it."""
        self._connection.execute("INSERT OR IGNORE INTO positions VALUES (?, 0)", (partition,))
        moved = self._connection.execute(
            "UPDATE positions SET next = ? WHERE partition = ? AND next = ?", (after, partition, before)
        )
        return moved.rowcount == 1


def append(log: EventLog, topic: str, *, name: str, threads: int, count: int) -> None:
    """Append from several threads at once, each ``count`` numbered records under a key of its own, in small batches."""

    def write(key: str) -> None:
        for start in range(0, count, 4):
            batch = [NewRecord(key=key, value=b"%d" % n) for n in range(start, min(start + 4, count))]
            log.append(topic, batch)

    writers = [threading.Thread(target=write, args=(f"{name}-{index}",)) for index in range(threads)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()


def hold(log: EventLog, topic: str, *, group: str) -> None:
    """Be a member for ever, and say what it holds whenever that changes."""
    subscription = log.subscribe(topic, group, lambda partitions: {})
    said: frozenset[int] | None = None
    while True:
        subscription.poll(limit=10, timeout_s=0.05)
        if subscription.assigned != said:
            said = subscription.assigned
            print(*sorted(said), flush=True)


def consume(log: EventLog, topic: str, *, group: str, store: EffectStore, until: int, kill_after: int) -> None:
    """Consume until the store has ``until`` effects, or die without a word in the middle of a transaction."""
    subscription = log.subscribe(topic, group, store.positions)
    made = 0

    def maybe_die() -> None:
        nonlocal made
        made += 1
        if made == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    while len(store.effects()) < until:
        records = subscription.poll(limit=10, timeout_s=0.5)
        if records and not store.apply(records, between=maybe_die):
            subscription.rewind()
    subscription.close()


def main() -> None:
    """Run one of the above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["append", "hold", "consume"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--name", default="worker")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--store", type=Path, default=Path())
    parser.add_argument("--kill-after", type=int, default=0)
    given = parser.parse_args()
    with closing(open_fast(given.url)) as log:
        if given.what == "append":
            append(log, given.topic, name=given.name, threads=given.threads, count=given.count)
        elif given.what == "hold":
            hold(log, given.topic, group=given.name)
        else:
            with closing(EffectStore(given.store)) as store:
                consume(log, given.topic, group=given.name, store=store, until=given.count, kill_after=given.kill_after)


if __name__ == "__main__":
    main()
