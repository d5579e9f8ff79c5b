"""The feedback consumer as a program: takes events from the log, settles them, publishes what came of it.

Positions move in the transaction of the effect. What is to be published waits in the database's outbox until the log has it.
Killed at any instant and started again, it goes on where the last transaction ended.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Final

from core.errors import BadRecord, Conflict, RatchetError, Retryable, UnsupportedSchema
from core.eventlog import open_log
from core.eventlog.base import EventLog, LogRecord, NewRecord, Subscription
from core.events import DEAD_LETTERS, INTERACTIONS, SCHEMA_VERSION, DeadLetter, Event, Outcome, decode, new_id, now
from core.examples import ExampleStore, ParkedRecord, StoreTransaction
from core.logs import get_logger
from core.masking import Masker
from core.masking.records import mask_bytes, mask_event
from core.probe import ProbeServer
from core.registry import Registry
from core.settings import Settings, id_key, without_password
from core.status import StatusFile
from feedback import metrics
from feedback.assess import Assessor
from feedback.join import Batch, Joined, give_up, give_up_on, join
from feedback.live import LiveModel
from feedback.pseudo_labels import PseudoLabeller
from feedback.review import ReviewQueue

_TRIES: Final = 3
_SWEEP_S: Final = 5.0
_KEEP_PREDICTIONS: Final = timedelta(days=30)
_MAX_BACKOFF_S: Final = 30.0
_LETTER_BYTES: Final = 100_000
"""Of a longer record a dead letter keeps the beginning: as JSON a byte may need six, and a log's records have a limit."""
_REASON_CHARS: Final = 2_000

_Take = Callable[[StoreTransaction], list[LogRecord]]
"""Takes records from where they wait, within a transaction; those that somebody else has had are left out."""


class Consumer:
    """Consumes interactions until :meth:`stop`."""

    def __init__(self, settings: Settings) -> None:
        """Raises BadSettings for what cannot work; what is out of reach is tried again by :meth:`run`."""
        self._settings = settings
        self._store = ExampleStore(settings.example_store_url, settings.model)
        self._log: EventLog = open_log(settings.event_log_url, partitions=settings.log_partitions)
        registry = Registry(settings.registry_store_url, settings.model)
        self._live = LiveModel(registry, settings.home / "cache" / "feedback", device=settings.device)
        self._masker = Masker.of(settings.masking_policy)
        self._key = id_key(settings)
        self._assessor = Assessor(settings, self._live, self._key)
        self._pseudo_labeller = PseudoLabeller(settings, self._live, self._key)
        self._review = ReviewQueue(settings, self._live)
        self._consumer = settings.consumer
        self._status = StatusFile(settings.home, "feedback")
        self._stop = threading.Event()
        self._reached = threading.Event()
        self._beat = time.monotonic()
        self._next_sweep = 0.0
        self._failures = 0
        self._consumed = 0

    def stop(self) -> None:
        """End after the present batch."""
        self._stop.set()

    def is_ready(self) -> bool:
        """True once log and store have been reached."""
        return self._reached.is_set()

    def is_alive(self) -> bool:
        """False if the loop has not turned for two minutes."""
        return time.monotonic() - self._beat < 120

    def run(self) -> None:
        """Turn until stopped. What is out of reach is waited for with growing patience."""
        subscription: Subscription | None = None
        try:
            while not self._stop.is_set():
                self._beat = time.monotonic()
                try:
                    if subscription is None:
                        self._store.migrate()
                        while not self._stop.is_set() and self._assessor.catch_up(self._store):
                            self._beat = time.monotonic()
                        self._start_over_where_lost()
                        subscription = self._log.subscribe(INTERACTIONS, self._consumer, self._stored_positions)
                    self._turn(subscription)
                    self._failures = 0
                except (Retryable, Conflict) as error:
                    self._back_off(error)
        finally:
            if subscription is not None:
                subscription.close()
            self._log.close()
            self._store.close()
            self._status.write("stopped")

    def _stored_positions(self, partitions: frozenset[int]) -> dict[int, int]:
        stored = self._store.positions(self._consumer, INTERACTIONS)
        return {partition: stored.get(partition, 0) for partition in partitions}

    def _start_over_where_lost(self) -> None:
        """A log that ends before our position was lost or replaced: it is read from its start."""
        ends = self._log.ends(INTERACTIONS)
        stored = self._store.positions(self._consumer, INTERACTIONS)
        lost = sorted(partition for partition, position in stored.items() if position > ends.get(partition, 0))
        if lost:
            get_logger().error("the log ends before what was consumed: it is read from its start", partitions=lost)
            with self._store.transaction() as store:
                store.forget_positions(self._consumer, INTERACTIONS, lost)

    def _turn(self, subscription: Subscription) -> None:
        self._live.refresh()
        records = subscription.poll(limit=self._settings.consumer_batch, timeout_s=0.5)
        metrics.PARTITIONS.set(len(subscription.assigned))
        if records:
            try:
                self._consume(records)
            except RatchetError:
                subscription.rewind()
                raise
        self._relay()
        self._reached.set()
        if time.monotonic() >= self._next_sweep:
            self._sweep()
            self._next_sweep = time.monotonic() + _SWEEP_S
        self._status.write("consuming", consumed=self._consumed, version=self._live.version)

    def _consume(self, records: Sequence[LogRecord]) -> None:
        """Settle a batch in one transaction; where that fails for a reason of its own, one record after the other."""
        with metrics.BATCH_SECONDS.time():
            try:
                self._settle(partial(self._take, records=records))
            except (Retryable, Conflict):
                raise
            except Exception:  # one that the store refuses, say, or a fault of ours
                get_logger().exception("batch failed; its records are tried one by one", records=len(records))
                for record in records:
                    self._consume_alone(record, partial(self._take, records=[record]))
        self._consumed += len(records)

    def _consume_alone(self, record: LogRecord, take: _Take) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                self._settle(take)
            except (Retryable, Conflict):
                raise
            except Exception as error:  # whatever it is, one record must not hold up the others
                if attempt == _TRIES:
                    get_logger().exception("record dead-lettered", partition=record.partition, offset=record.offset)
                    self._bury(take, f"{type(error).__name__}: {error}")
            else:
                return

    def _settle(self, take: _Take) -> None:
        """Settle what ``take`` takes from where it waits, in one transaction."""
        with self._store.transaction() as store:
            events = [event for record in take(store) if (event := self._decode(store, record)) is not None]
            batch = Batch.of(events, model=self._settings.model)
            for command in batch.commands:
                store.add_command(command)
            outcomes = self._assessor.assess(store, self._joined(store, batch))
        for event in events:
            metrics.EVENTS.labels(type=getattr(event, "type", "other")).inc()
        _count(outcomes)

    def _take_in_parked(self) -> None:
        """Settle what a newer Ratchet wrote, as far as this program can read it: it was parked by one that could not."""
        while not self._stop.is_set() and (
            found := self._store.parked(schema_version=SCHEMA_VERSION, limit=self._settings.consumer_batch)
        ):
            self._beat = time.monotonic()
            for parked in found:
                self._consume_alone(_as_read(parked), partial(_unpark, parked=parked))

    def _joined(self, store: StoreTransaction, batch: Batch) -> list[Joined]:
        joined = join(store, batch)
        self._review.admit(store, batch.predictions)
        return joined

    def _take(self, store: StoreTransaction, records: Sequence[LogRecord]) -> list[LogRecord]:
        """Move the positions past the records; return those that no other consumer has taken before."""
        positions = store.positions(self._consumer, INTERACTIONS)
        fresh = [record for record in records if record.offset >= positions.get(record.partition, 0)]
        ends: dict[int, int] = {}
        for record in fresh:
            ends[record.partition] = record.offset + 1
        for partition, after in sorted(ends.items()):
            before = positions.get(partition, 0)
            store.move_position(self._consumer, INTERACTIONS, partition, before=before, after=after)
        return fresh

    def _decode(self, store: StoreTransaction, record: LogRecord) -> Event | None:
        """The event, masked again: the service that wrote it may be older, or of other settings."""
        try:
            return mask_event(decode(record.value), self._masker, self._key)
        except UnsupportedSchema as error:
            value, key = mask_bytes(record.value, self._masker), self._masker.mask(record.key)
            masked = {**asdict(record), "value": value, "key": key}
            store.parked.add(ParkedRecord(**masked, schema_version=error.schema_version))
            get_logger().warning("parked until this program is upgraded", offset=record.offset, reason=str(error))
            return None
        except BadRecord as error:
            self._dead_letter(store, record, str(error), kind=type(error).__name__)
            return None

    def _bury(self, take: _Take, reason: str) -> None:
        """Dead-letter what ``take`` takes from where it waits.

        Feedback that is lost with it gets its outcome, unless that is what cannot be stored.
        """
        for settle in (True, False):
            try:
                outcomes: Sequence[Outcome] = []
                with self._store.transaction() as store:
                    for found in take(store):
                        self._dead_letter(store, found, reason, kind="fault")
                        if settle:
                            event = decode(found.value)
                            told = self._masker.mask(reason)
                            outcomes = give_up_on(store, event, model=self._settings.model, reason=told)
                _count(outcomes)
            except (Retryable, Conflict):
                raise
            except Exception:
                if not settle:
                    raise
            else:
                return

    def _dead_letter(self, store: StoreTransaction, record: LogRecord, reason: str, *, kind: str) -> None:
        value, key = mask_bytes(record.value, self._masker), self._masker.mask(record.key)
        reason = self._masker.mask(reason)
        letter = DeadLetter(
            model=self._settings.model,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=key,
            value=value[:_LETTER_BYTES].decode("latin-1"),
            cut_from=len(value) if len(value) > _LETTER_BYTES else None,
            reason=reason[:_REASON_CHARS],
        )
        store.publish(DEAD_LETTERS, key.replace("\0", "")[:200], letter)
        metrics.DEAD_LETTERS.labels(kind=kind).inc()
        get_logger().warning("dead letter", partition=record.partition, offset=record.offset, reason=reason)

    def _relay(self) -> None:
        """Append what transactions have left in the outbox; a crash in between sends it twice, which ids make harmless."""
        while rows := self._store.outbox():
            for topic in dict.fromkeys(row.topic for row in rows):
                self._append(topic, [NewRecord(key=row.key, value=row.value) for row in rows if row.topic == topic])
            self._store.outbox_sent(rows)

    def _append(self, topic: str, records: Sequence[NewRecord]) -> None:
        try:
            self._log.append(topic, records)
        except BadRecord as error:  # one is larger than a log takes; waiting for it would hold up all others for ever
            if len(records) > 1:
                for record in records:
                    self._append(topic, [record])
                return
            metrics.DEAD_LETTERS.labels(kind="too_large").inc()
            get_logger().error("not published", topic=topic, key=records[0].key[:80], reason=str(error))

    def _sweep(self) -> None:
        self._take_in_parked()
        with self._store.transaction() as store:
            outcomes = give_up(store, timeout_s=self._settings.join_timeout_s)
        _count(outcomes)
        self._pseudo_labeller.turn(self._store)
        self._store.forget_predictions(before=now() - _KEEP_PREDICTIONS)
        self._review.sweep(self._store)
        pending = self._store.pending()
        metrics.JOIN_BACKLOG.set(pending.count)
        metrics.JOIN_OLDEST.set((now() - pending.oldest).total_seconds() if pending.oldest else 0)
        metrics.OUTBOX.set(self._store.outbox_size())
        metrics.PARKED.set(self._store.parked_count())
        for (origin, split), count in self._store.example_counts().items():
            metrics.EXAMPLES.labels(origin=origin, split=split).set(count)
        positions = self._store.positions(self._consumer, INTERACTIONS)
        lag = sum(end - positions.get(partition, 0) for partition, end in self._log.ends(INTERACTIONS).items())
        metrics.LOG_LAG.labels(topic=INTERACTIONS).set(lag)

    def _back_off(self, error: RatchetError) -> None:
        self._failures += 1
        wait = min(0.25 * 2.0 ** min(self._failures, 10), _MAX_BACKOFF_S)
        metrics.FAULTS.labels(kind=type(error).__name__).inc()
        get_logger().warning("backing off", reason=str(error), seconds=wait, attempt=self._failures, fault=new_id())
        self._status.write("backing off", str(error))
        self._stop.wait(wait)


def _unpark(store: StoreTransaction, parked: ParkedRecord) -> list[LogRecord]:
    return [_as_read(item) for item in store.parked.remove([parked])]


def _as_read(parked: ParkedRecord) -> LogRecord:
    return LogRecord(
        topic=parked.topic,
        partition=parked.partition,
        offset=parked.offset,
        key=parked.key,
        value=parked.value,
        at=parked.at,
    )


def _count(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        # A reason may quote the user's text; what stands before its details is a small closed set.
        reason = re.split("[:'\"]", outcome.reason, maxsplit=1)[0].strip() or "invalid"
        metrics.OUTCOMES.labels(status=outcome.status, reason=reason).inc()


def run_feedback(settings: Settings, stop: threading.Event) -> None:
    """The program's main function: consume until ``stop`` is set. Raises BadSettings."""
    consumer = Consumer(settings)
    probe = None
    if settings.feedback_port:
        probe = ProbeServer(
            settings.probe_host, settings.feedback_port, is_alive=consumer.is_alive, is_ready=consumer.is_ready
        )
    get_logger().info(
        "feedback consumer started", log=without_password(settings.event_log_url), home=str(settings.home)
    )
    threading.Thread(target=_stop_with, args=(stop, consumer), name="stop", daemon=True).start()
    try:
        consumer.run()
    finally:
        stop.set()
        if probe:
            probe.close()


def _stop_with(stop: threading.Event, consumer: Consumer) -> None:
    stop.wait()
    consumer.stop()
