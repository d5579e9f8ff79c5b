"""The event log on Kafka."""

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError, TopicAlreadyExistsError

from core.errors import BadSettings, LogUnavailable
from core.eventlog.base import LogRecord, NewRecord, StoredPositions, Subscription, check_sizes
from core.eventlog.kafka_client import CLIENT_ERRORS, Cluster, to_records
from core.eventlog.kafka_group import GroupSettings, KafkaSubscription

WINDOW_BYTES: Final = 16_000_000
"""How much of one append is on its way at a time: kafka-python has no bound of its own."""
_EXPIRY_SLACK_S: Final = 1.0


class KafkaEventLog:
    """An event log on a Kafka cluster. See :class:`core.eventlog.base.EventLog`.

    Args:
        servers: ``host:port`` of the brokers to ask first.
        partitions: how many partitions a new topic gets.
        connect_timeout_s: seconds after which a call to brokers out of reach raises LogUnavailable.
        heartbeat_s: seconds between a group member's signs of life.
        expiry_s: seconds without one after which its partitions go to the others; brokers bound it, by default to
            6 at least.
        max_poll_gap_s: seconds between polls after which a member that lives is taken for stuck. A member that does
            not poll holds up every rebalance for as long, and with it the records of the whole group.

    Raises:
        BadSettings: ``expiry_s`` is not above ``heartbeat_s``.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        partitions: int = 6,
        connect_timeout_s: float = 10.0,
        heartbeat_s: float = 1.0,
        expiry_s: float = 10.0,
        max_poll_gap_s: float = 60.0,
    ) -> None:
        if not 0 < heartbeat_s < expiry_s:
            raise BadSettings(
                f"a heartbeat every {heartbeat_s} s cannot keep a membership that expires after {expiry_s} s"
            )
        self._cluster = Cluster(servers=tuple(servers), timeout_s=connect_timeout_s)
        self._group_settings = GroupSettings(heartbeat_s=heartbeat_s, expiry_s=expiry_s, max_poll_gap_s=max_poll_gap_s)
        self._new_partitions = partitions
        self._partitions: dict[str, int] = {}
        self._lock = threading.Lock()  # held for moments only
        self._connecting = threading.Lock()  # held while a producer looks for a broker
        self._producer: Any = None
        self._retired: list[Any] = []
        self._readers: list[_Reader] = []
        self._closed = False

    def append(self, topic: str, records: Sequence[NewRecord]) -> None:
        """See EventLog.append."""
        check_sizes(records)
        if not records:
            return
        self.partitions(topic)
        for window in _windows(records):
            try:
                with self._cluster.failures():
                    self._append(topic, window)
            except LogUnavailable:
                self._partitions.pop(topic, None)  # the topic may be gone with its broker: look again next time
                raise

    def read(self, topic: str, positions: Mapping[int, int], *, limit: int, timeout_s: float = 0.0) -> list[LogRecord]:
        """See EventLog.read."""
        count = self.partitions(topic)
        known = {TopicPartition(topic, number): at for number, at in positions.items() if 0 <= number < count}
        if not known or limit < 1:
            return []
        with self._reader() as reader:
            return reader.read(known, limit=limit, timeout_s=timeout_s)

    def ends(self, topic: str) -> dict[int, int]:
        """See EventLog.ends."""
        partitions = [TopicPartition(topic, number) for number in range(self.partitions(topic))]
        with self._reader() as reader:
            return {partition.partition: end for partition, end in reader.ends(partitions).items()}

    def subscribe(self, topic: str, group: str, stored_positions: StoredPositions) -> Subscription:
        """See EventLog.subscribe. The member joins with its first poll."""
        return KafkaSubscription(self._cluster, self._group_settings, self, (topic, group), stored_positions)

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; a topic that is missing is created.

        Raises:
            LogUnavailable: no broker answers.
        """
        count = self._partitions.get(topic)
        if count is None:
            with self._cluster.failures(), closing(self._connect_admin()) as admin:
                count = self._partitions[topic] = self._ensure_topic(admin, topic)
        return count

    def close(self) -> None:
        """See EventLog.close."""
        with self._connecting, self._lock:
            self._closed = True
            readers, self._readers = self._readers, []
            if self._producer is not None:
                self._retired.append(self._producer)
                self._producer = None
        for reader in readers:
            reader.close()
        self._close_retired(timeout_s=self._cluster.timeout_s)

    def _append(self, topic: str, records: Sequence[NewRecord]) -> None:
        producer = self._current_producer()
        try:
            acks = [producer.send(topic, key=record.key.encode(), value=record.value) for record in records]
            deadline = time.monotonic() + self._cluster.timeout_s + _EXPIRY_SLACK_S
            for ack in acks:
                ack.get(timeout=max(0.0, deadline - time.monotonic()))
        except KafkaError:
            self._retire(producer)
            raise

    def _current_producer(self) -> Any:
        if not self._connecting.acquire(timeout=self._cluster.timeout_s):
            raise KafkaTimeoutError("another thread is still waiting for a broker")
        try:
            with self._lock:
                self._refuse_when_closed()
                producer = self._producer
            if producer is None:
                producer = self._connect_producer()
                with self._lock:
                    self._producer = producer
            return producer
        finally:
            self._connecting.release()

    def _connect_producer(self) -> Any:
        timeout_ms = self._cluster.timeout_ms
        return self._cluster.connect(
            KafkaProducer,
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,
            max_block_ms=timeout_ms,
            delivery_timeout_ms=timeout_ms,
            request_timeout_ms=max(1, timeout_ms // 2),
            metrics_enabled=False,
        )

    def _connect_admin(self) -> Any:
        return self._cluster.connect(KafkaAdminClient, request_timeout_ms=self._cluster.timeout_ms)

    def _retire(self, producer: Any) -> None:
        """Start afresh after a failure: a gap in the old producer's sequence numbers could fail the next append."""
        with self._lock:
            if self._producer is producer:
                self._producer = None
                self._retired.append(producer)
        self._close_retired(timeout_s=0.0)

    def _close_retired(self, *, timeout_s: float) -> None:
        """Close the producers with nothing on its way; the others of their users still wait for acknowledgements."""
        with self._lock:
            retired, self._retired = self._retired, []
        for producer in retired:
            try:
                producer.close(timeout=timeout_s)
            except KafkaTimeoutError:
                with self._lock:
                    self._retired.append(producer)

    @contextmanager
    def _reader(self) -> Iterator["_Reader"]:
        """A reader for one thread; after an error it is not used again."""
        with self._cluster.failures():
            with self._lock:
                self._refuse_when_closed()
                reader = self._readers.pop() if self._readers else None
            reader = reader or _Reader(self._cluster)
            try:
                yield reader
            except BaseException:
                reader.close()
                raise
            with self._lock:
                if not self._closed:
                    self._readers.append(reader)
                    return
            reader.close()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise self._cluster.unavailable("it was closed in this process")

    def _ensure_topic(self, admin: Any, topic: str) -> int:
        (found,) = admin.describe_topics([topic])
        if found["error_code"] != 0:
            brokers = [broker for broker in admin.describe_cluster()["brokers"] if not broker.get("is_fenced")]
            replicas = min(3, max(1, len(brokers)))
            # the time a record carries is when the log took it, whatever the clock of the program that sent it says
            configs = {"message.timestamp.type": "LogAppendTime"}
            if replicas == 3:
                configs["min.insync.replicas"] = "2"  # or "acknowledged by all" could mean one
            wanted = {"num_partitions": self._new_partitions, "replication_factor": replicas, "configs": configs}
            with suppress(TopicAlreadyExistsError):
                admin.create_topics({topic: wanted}, timeout_ms=self._cluster.timeout_ms)
            admin.wait_for_topics([topic], timeout_ms=self._cluster.timeout_ms)
            (found,) = admin.describe_topics([topic])
        return len(found["partitions"])


class _Reader:
    """A consumer outside any group, for one thread at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._consumer = cluster.connect(KafkaConsumer, group_id=None, **cluster.consumer_settings())
        self._next: dict[Any, int] = {}

    def ends(self, partitions: Sequence[Any]) -> dict[Any, int]:
        """The end of each partition."""
        ends: dict[Any, int] = self._consumer.end_offsets(partitions, timeout_ms=self._cluster.timeout_ms)
        return ends

    def read(self, positions: Mapping[Any, int], *, limit: int, timeout_s: float) -> list[LogRecord]:
        """See EventLog.read."""
        deadline = time.monotonic() + timeout_s
        partitions = list(positions)
        starts = self._consumer.beginning_offsets(partitions, timeout_ms=self._cluster.timeout_ms)
        ends = self.ends(partitions)
        there_is_some = any(max(at, starts[partition]) < ends[partition] for partition, at in positions.items())
        if there_is_some:  # then an empty answer would be wrong, however short the caller's patience
            deadline = max(deadline, time.monotonic() + self._cluster.timeout_s)
        self._consumer.assign(partitions)
        for partition, at in positions.items():
            # beyond the end Kafka would go back to the start
            target = min(max(at, starts[partition]), ends[partition])
            if self._next.get(partition) != target:
                self._consumer.seek(partition, target)
        self._next = {}
        while True:
            left_ms = max(0, math.ceil((deadline - time.monotonic()) * 1000))
            batch = self._consumer.poll(timeout_ms=left_ms, max_records=limit)
            self._next |= {partition: records[-1].offset + 1 for partition, records in batch.items()}
            records = [
                record
                for record in to_records(batch.values())
                if record.offset >= positions[TopicPartition(record.topic, record.partition)]
            ]
            if records:
                return records
            if time.monotonic() >= deadline:
                if there_is_some:
                    raise self._cluster.unavailable("it has records, but did not send them in time")
                return []

    def close(self) -> None:
        """Release the connection."""
        with suppress(*CLIENT_ERRORS):
            self._consumer.close(timeout_ms=1000)


def _windows(records: Sequence[NewRecord]) -> Iterator[Sequence[NewRecord]]:
    start = size = 0
    for index, record in enumerate(records):
        if size and size + len(record.value) > WINDOW_BYTES:
            yield records[start:index]
            start, size = index, 0
        size += len(record.value)
    yield records[start:]
