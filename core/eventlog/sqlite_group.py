"""Consumer groups of the embedded log.

Members and what they hold are rows in the log's file. A member signs its row while it polls; whoever sees the rows
change works out the same assignment from the same rows. A member takes a partition only once its holder has released it
or has expired, so two live members never hold one together. One that was stopped beyond its expiry and wakes up may
still work on records it got before: its consumer's compare-and-set of positions refuses those.
"""

import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.errors import LogUnavailable
from core.eventlog.base import LogRecord, StoredPositions, start_positions
from core.eventlog.sqlite_file import Database, await_change, data_version, fetch, find_topic
from core.events import new_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Membership:
    """Which group of which topic, and how its members show that they live (seconds)."""

    topic: str
    group: str
    #: for a topic that does not exist yet
    partitions: int
    heartbeat_s: float
    expiry_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """The rows of one group: who lives, who holds what."""

    members: frozenset[str]
    dead: frozenset[str]
    holders: dict[int, str]

    def held_by(self, member: str) -> set[int]:
        return {partition for partition, holder in self.holders.items() if holder == member}

    def free(self, partitions: Iterable[int]) -> set[int]:
        return {partition for partition in partitions if self.holders.get(partition) not in self.members}


def assignment(members: Iterable[str], partitions: int) -> dict[str, frozenset[int]]:
    """Partitions dealt out to the sorted members in turn: nobody has more than one above another."""
    ranked = sorted(members)
    return {member: frozenset(range(rank, partitions, len(ranked))) for rank, member in enumerate(ranked)}


class SqliteSubscription:
    """One member of a consumer group of the embedded log. See :class:`core.eventlog.base.Subscription`."""

    def __init__(self, database: Database, membership: Membership, stored_positions: StoredPositions) -> None:
        self._database = database
        self._membership = membership
        self._stored_positions = stored_positions
        self._member = new_id()
        self._next_beat = 0.0
        self._held: frozenset[int] = frozenset()
        self._positions: dict[int, int] = {}
        self._turn = 0

    def poll(self, *, limit: int, timeout_s: float) -> list[LogRecord]:
        """See Subscription.poll."""
        deadline = time.monotonic() + timeout_s
        while True:
            records = self._next_records(limit, deadline)
            unplaced = self._unplaced()
            if not unplaced:
                return records
            # outside of the log's connection, so that the consumer's own database errors reach it as they are
            stored = self._stored_positions(unplaced)
            _, ends = self._find_topic()
            asked = {partition: ends[partition] for partition in unplaced}
            self._positions |= start_positions(self._membership.topic, stored, asked)

    def rewind(self) -> None:
        """See Subscription.rewind."""
        self._positions.clear()

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions held at the last poll."""
        return self._held

    def close(self) -> None:
        """See Subscription.close. A log out of reach is no error: the membership expires by itself."""
        self._held = frozenset()
        try:
            topic_id, _ = self._find_topic()
            with self._database.transaction() as connection:
                me = (topic_id, self._membership.group, self._member)
                connection.execute("DELETE FROM members WHERE topic_id = ? AND group_name = ? AND member = ?", me)
                connection.execute("DELETE FROM claims WHERE topic_id = ? AND group_name = ? AND member = ?", me)
        except LogUnavailable:
            return

    def _find_topic(self) -> tuple[int, dict[int, int]]:
        return find_topic(self._database, self._membership.topic, self._membership.partitions)

    def _unplaced(self) -> frozenset[int]:
        return self._held - self._positions.keys()

    def _next_records(self, limit: int, deadline: float) -> list[LogRecord]:
        """Records of the partitions held; none at the deadline or when a partition has no position yet."""
        topic_id, ends = self._find_topic()
        while True:
            with self._database.lend() as connection:
                version = data_version(connection)  # first, so that no change after it is missed
                self._keep_membership(topic_id, len(ends))
                if self._unplaced():
                    return []
                held = {partition: self._positions[partition] for partition in self._held}
                records = fetch(connection, self._membership.topic, topic_id, held, limit=limit, turn=self._turn)
                if records or time.monotonic() >= deadline:
                    break
                await_change(connection, version, min(deadline, self._next_beat))
        self._turn += 1
        for record in records:
            self._positions[record.partition] = record.offset + 1
        return records

    def _keep_membership(self, topic_id: int, partitions: int) -> None:
        """Write only when a sign of life is due or a partition has to change hands; else a look is enough."""
        if time.monotonic() < self._next_beat:
            with self._database.lend() as connection:
                view = self._view(connection, topic_id)
            mine = view.held_by(self._member)
            wanted = assignment(view.members | {self._member}, partitions)[self._member]
            if self._member in view.members and self._held == mine and mine <= wanted and not view.free(wanted):
                return
        with self._database.transaction() as connection:
            view = self._sign(connection, topic_id)
            wanted = assignment(view.members, partitions)[self._member]
            mine = view.held_by(self._member)
            self._release(connection, topic_id, mine - wanted)
            taken = view.free(wanted)
            connection.executemany(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
                [(topic_id, self._membership.group, partition, self._member) for partition in sorted(taken)],
            )
        self._next_beat = time.monotonic() + self._membership.heartbeat_s
        kept = self._held & mine & wanted
        self._held = frozenset((mine & wanted) | taken)
        self._positions = {partition: at for partition, at in self._positions.items() if partition in kept}

    def _sign(self, connection: sqlite3.Connection, topic_id: int) -> _View:
        connection.execute(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)",
            (topic_id, self._membership.group, self._member, time.time(), self._membership.expiry_s),
        )
        view = self._view(connection, topic_id)
        connection.executemany(
            "DELETE FROM members WHERE topic_id = ? AND group_name = ? AND member = ?",
            [(topic_id, self._membership.group, member) for member in view.dead],
        )
        return view

    def _release(self, connection: sqlite3.Connection, topic_id: int, partitions: Iterable[int]) -> None:
        connection.executemany(
            "DELETE FROM claims WHERE topic_id = ? AND group_name = ? AND partition = ?",
            [(topic_id, self._membership.group, partition) for partition in partitions],
        )

    def _view(self, connection: sqlite3.Connection, topic_id: int) -> _View:
        group = (topic_id, self._membership.group)
        signs: Sequence[tuple[str, float, float]] = connection.execute(
            "SELECT member, beat_at_s, expiry_s FROM members WHERE topic_id = ? AND group_name = ?", group
        ).fetchall()
        # the distance counts both ways: after the clock was set back a sign from the future must not last for ever
        now = time.time()
        live = frozenset(member for member, beat_at, expiry_s in signs if abs(now - beat_at) < expiry_s)
        claims = connection.execute("SELECT partition, member FROM claims WHERE topic_id = ? AND group_name = ?", group)
        return _View(members=live, dead=frozenset(member for member, _, _ in signs) - live, holders=dict(claims))
