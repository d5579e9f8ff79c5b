"""The seam between the programs and a log of events.

A log has topics, a topic has partitions, a partition is a sequence of records with offsets 0, 1, 2, … . Records of one
key go to one partition, so they are read in the order they were appended. The log does not keep consumers' positions: a
consumer keeps them in its own database, in the transaction of the effect, and tells the log where to go on.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from core.errors import BadRecord

_log = logging.getLogger(__name__)

MAX_RECORD_BYTES: Final = 1_000_000
"""The largest record, key and value together: with its envelope it fits the 1 MiB of a Kafka broker's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRecord:
    """A record to append."""

    key: str
    value: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRecord:
    """A record as read: ``offset`` is its place in its partition, ``at`` when the log took it (UTC)."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    at: datetime


StoredPositions = Callable[[frozenset[int]], Mapping[int, int]]
"""Given partitions, the offset of the next record to process in each; a missing one starts at the beginning."""


class Subscription(Protocol):
    """One member of a consumer group. Not thread-safe: one thread polls it."""

    def poll(self, *, limit: int, timeout_s: float) -> list[LogRecord]:
        """At most ``limit`` records of the partitions this member holds, each partition's in order.

        Waits up to ``timeout_s`` seconds for the first. A partition that was newly assigned is read from its stored
        position. Raises LogUnavailable when the log cannot be reached (after which it can be polled again).
        """
        ...

    def rewind(self) -> None:
        """Go back to the stored positions, after a transaction that did not commit."""
        ...

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that this member holds now."""
        ...

    def close(self) -> None:
        """Leave the group at once, so that the others take over without waiting."""
        ...


class EventLog(Protocol):
    """A durable log. ``append``, ``read`` and ``ends`` may be called from any thread."""

    def append(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Append the records in order; return once all of them are durable.

        Raises LogUnavailable when that is not certain. Some may then have been stored: append them all again, and let
        the readers drop doubles by id. Raises BadRecord, and stores nothing, when a record is above MAX_RECORD_BYTES.
        """
        ...

    def read(self, topic: str, positions: Mapping[int, int], *, limit: int, timeout_s: float = 0.0) -> list[LogRecord]:
        """At most ``limit`` records at or after the given offset of each given partition, outside any group.

        A position before the oldest kept record reads from that one. Waits up to ``timeout_s`` seconds for the first
        record.
        """
        ...

    def ends(self, topic: str) -> dict[int, int]:
        """For every partition of the topic the offset that the next record will get."""
        ...

    def subscribe(self, topic: str, group: str, stored_positions: StoredPositions) -> Subscription:
        """Join a consumer group, whose members share the topic's partitions."""
        ...

    def close(self) -> None:
        """Release connections; pending appends have returned or raised by then."""
        ...


def check_sizes(records: Sequence[NewRecord]) -> None:
    """Refuse what no log could take.

    Raises:
        BadRecord: a record is larger than MAX_RECORD_BYTES.
    """
    for record in records:
        size = len(record.key.encode()) + len(record.value)
        if size > MAX_RECORD_BYTES:
            raise BadRecord(
                f"the record with key {record.key[:80]!r} has {size} bytes, an event log takes {MAX_RECORD_BYTES}"
            )


def start_positions(topic: str, stored: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, int]:
    """Where a consumer goes on in each partition that has an end: at its stored position, else at the start."""
    for partition, end in ends.items():
        if stored.get(partition, 0) > end:
            _log.warning(
                "the stored position %d of %s/%d is beyond the end %d of the log: was the log lost or replaced?",
                *(stored[partition], topic, partition, end),
            )
    return {partition: max(0, stored.get(partition, 0)) for partition in ends}
