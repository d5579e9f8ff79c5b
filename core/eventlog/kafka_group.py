"""Consumer groups of the log on Kafka: Kafka shares out the partitions, the consumer knows where each goes on."""

import logging
import math
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import RetriableError
from kafka.structs import MemberState

from core.eventlog.base import LogRecord, StoredPositions, start_positions
from core.eventlog.kafka_client import CLIENT_ERRORS, Cluster, to_records

_SLICE_S: Final = 0.5
"""How long one call of Kafka's client may take: a liveness check, or a newly assigned partition, waits for its end."""
_REBALANCE_S: Final = 5.0
"""How much longer than asked a poll may take to see a rebalance through; see :meth:`KafkaSubscription.poll`."""
_QUIET_S: Final = 3.0
"""After this long without a record the broker is asked for a sign of life: Kafka's client hides that it is gone."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSettings:
    """How a group's members show that they live (seconds)."""

    heartbeat_s: float
    expiry_s: float
    max_poll_gap_s: float


class Topics(Protocol):
    """What knows, and makes, topics."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        ...


class KafkaSubscription:
    """One member of a Kafka consumer group. See :class:`core.eventlog.base.Subscription`."""

    def __init__(
        self,
        cluster: Cluster,
        settings: GroupSettings,
        topics: Topics,
        topic_and_group: tuple[str, str],
        stored_positions: StoredPositions,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._topics = topics
        self._topic, self._group = topic_and_group
        self._stored_positions = stored_positions
        self._consumer: Any = None
        self._positions: dict[int, int] = {}
        self._last_sign = 0.0
        self._unstable_since: float | None = None

    def poll(self, *, limit: int, timeout_s: float) -> list[LogRecord]:
        """See Subscription.poll. May take three seconds longer when no broker answers, five during a rebalance.

        kafka-python 3.0.12 throws away the outcome of a rebalance that ends between two of its polls, and starts
        another one. A poll is therefore not left in the middle of one.
        """
        deadline = time.monotonic() + timeout_s
        if self._consumer is None:
            self._join()
        while True:
            unplaced = self.assigned - self._positions.keys()
            if unplaced:
                self._place(unplaced)
            left_s = deadline - time.monotonic() if self._stable() else _SLICE_S
            records = self._poll(limit, min(_SLICE_S, max(0.0, left_s)))
            if records:
                return records
            self._require_sign_of_life()
            self._rejoin_if_stuck()
            over_s = time.monotonic() - deadline
            if self._consumer is None or over_s >= _REBALANCE_S or (over_s >= 0 and self._stable()):
                return []

    def rewind(self) -> None:
        """See Subscription.rewind."""
        self._positions.clear()

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that the group gives to this member."""
        if self._consumer is None:
            return frozenset()
        return frozenset(partition.partition for partition in self._consumer.assignment())

    def close(self) -> None:
        """See Subscription.close. Brokers out of reach are no error: the membership expires by itself."""
        self._leave()

    def _join(self) -> None:
        self._topics.partitions(self._topic)
        with self._cluster.failures():
            consumer = self._cluster.connect(
                KafkaConsumer,
                group_id=self._group,
                partition_assignment_strategy=[CooperativeStickyAssignor],
                session_timeout_ms=int(self._settings.expiry_s * 1000),
                heartbeat_interval_ms=int(self._settings.heartbeat_s * 1000),
                max_poll_interval_ms=int(self._settings.max_poll_gap_s * 1000),
                **self._cluster.consumer_settings(),
            )
            consumer.subscribe([self._topic], listener=_Listener(self._positions))
            try:
                # loads the topic's partitions: a member that joins without knowing them is given none, and its way out
                # of that is the one that _rejoin_if_stuck is there for
                consumer.end_offsets([TopicPartition(self._topic, 0)], timeout_ms=self._cluster.timeout_ms)
            except CLIENT_ERRORS:
                consumer.close(autocommit=False)
                raise
        self._consumer = consumer
        self._last_sign = time.monotonic()
        self._unstable_since = None

    def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._positions.clear()
        if consumer is not None:
            with suppress(*CLIENT_ERRORS):
                consumer.close(autocommit=False, timeout_ms=1000)

    def _place(self, partitions: frozenset[int]) -> None:
        """Start newly assigned or rewound partitions at the consumer's own positions."""
        stored = self._stored_positions(partitions)
        with self._cluster.failures():
            asked = [TopicPartition(self._topic, number) for number in partitions]
            found = self._consumer.end_offsets(asked, timeout_ms=self._cluster.timeout_ms)
            ends = {partition.partition: end for partition, end in found.items()}
            starts = start_positions(self._topic, stored, ends)
            for partition in asked:
                # beyond the end Kafka would go back to the start
                self._consumer.seek(partition, min(starts[partition.partition], ends[partition.partition]))
            self._positions.update(starts)

    def _poll(self, limit: int, timeout_s: float) -> list[LogRecord]:
        with self._cluster.failures():
            try:
                batch = self._consumer.poll(timeout_ms=math.ceil(timeout_s * 1000), max_records=limit)
            except RetriableError:
                raise
            except CLIENT_ERRORS:
                self._leave()
                raise
        records = []
        for record in to_records(batch.values()):
            # what is not placed yet comes again, and what lies before the position was not asked for
            if record.offset >= self._positions.get(record.partition, record.offset + 1):
                self._positions[record.partition] = record.offset + 1
                records.append(record)
        if batch:
            self._last_sign = time.monotonic()
        return records

    def _require_sign_of_life(self) -> None:
        if time.monotonic() - self._last_sign < _QUIET_S:
            return
        with self._cluster.failures():
            timeout_ms = min(self._cluster.timeout_ms, int(_QUIET_S * 1000))
            self._consumer.end_offsets([TopicPartition(self._topic, 0)], timeout_ms=timeout_ms)
        self._last_sign = time.monotonic()

    def _stable(self) -> bool:
        stable = bool(self._consumer.group_metadata().state == MemberState.STABLE)
        if stable:
            self._unstable_since = None
        elif self._unstable_since is None:
            self._unstable_since = time.monotonic()
        return stable

    def _rejoin_if_stuck(self) -> None:
        """Leave, and join again with the next poll, when a rebalance takes longer than the slowest member may.

        kafka-python 3.0.12 drops a rejoin that a change of metadata set off when a poll ends between the answers to its
        JoinGroup and SyncGroup: from then on the member sends no heartbeats and is given nothing, for ever.
        """
        if self._stable() or self._unstable_since is None:
            return
        lasted_s = time.monotonic() - self._unstable_since
        if lasted_s > self._settings.max_poll_gap_s + self._settings.expiry_s:
            _log.warning("group %s has been rebalancing for %.0f s, joining again", self._group, lasted_s)
            self._leave()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Forgets the positions of what comes and goes, so that whatever comes is placed again by the next poll.

    It runs on the client's own thread, where asking the consumer's database would stop the heartbeats. What the client
    fetches before a partition is placed is not returned.
    """

    def __init__(self, positions: dict[int, int]) -> None:
        self._positions = positions

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """New to this member."""
        self._forget(assigned)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """They belong to another member now."""
        self._forget(revoked)

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        """The same, found out late."""
        self._forget(lost)

    def _forget(self, partitions: Iterable[Any]) -> None:
        for partition in partitions:
            self._positions.pop(partition.partition, None)
