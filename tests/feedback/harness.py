"""The feedback program of real parts for tests: a temporary home, an SQLite log and store, a folder registry."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from core.eventlog import open_log
from core.eventlog.base import LogRecord, NewRecord
from core.events import (
    DEAD_LETTERS,
    EXAMPLES,
    INTERACTIONS,
    DeadLetter,
    Event,
    Example,
    Feedback,
    FeedbackKind,
    Outcome,
    Prediction,
    decode,
    encode,
)
from core.examples import ExampleStore, StoreTransaction
from core.registry import Registry
from core.settings import Settings
from feedback.assess import Assessor
from feedback.consumer import Consumer
from feedback.join import Batch, join
from feedback.live import LiveModel
from tests.support import wait_until
from tests.support_bundles import make_bundle

LABELS = ["alpha", "beta", "gamma"]
KEY = b"k" * 64


def settings_for(home: Path, **overrides: Any) -> Settings:
    """Settings that keep everything below a home."""
    return Settings(**{"home": home, "log_partitions": 4, "device": "cpu", **overrides})


def publish(home: Path, version: str, **bundle: Any) -> None:
    """Make a toy version the champion."""
    registry = Registry((home / "registry").as_uri(), "default")
    registry.publish(make_bundle(home / "made" / version, bundle.pop("labels", LABELS), version=version, **bundle))
    registry.promotions.promote_by_operator(version, reason="a test", actor="test")


def prediction(number: int | str, text: str = "where is my parcel", label: str = "alpha", **fields: Any) -> Prediction:
    """What the service would have recorded."""
    usual: dict[str, Any] = {
        "prediction_id": f"p{number}",
        "model_version": "v-0001",
        "task": "text_classification",
        "inputs": {"text": text},
        "output": {"label": label, "score": 0.5, "top": [{"label": label, "score": 0.5}]},
        "confidence": 0.5,
    }
    return Prediction(**{**usual, **fields})


def feedback(number: int | str, about: int | str | None = None, target: Any = None, **fields: Any) -> Feedback:
    """A trusted user's word on a prediction, or, with ``text``, on a text of their own."""
    if "text" in fields:
        fields["inputs"] = {"text": fields.pop("text")}
    usual: dict[str, Any] = {
        "feedback_id": f"f{number}",
        "prediction_id": None if about is None else f"p{about}",
        "target": target,
        "kind": FeedbackKind.CORRECT,
        "trusted": True,
    }
    return Feedback(**{**usual, **fields})


class Bench:
    """Join and assessment on a store, without a log: what a batch of events comes to."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self.store = ExampleStore(settings.example_store_url, settings.model)
        if not (home / "examples.db").exists():
            self.store.migrate()
        self._model = settings.model
        self.live = LiveModel(Registry(settings.registry_store_url, "default"), home / "cache", device="cpu")
        self.live.refresh()
        self._assessor = Assessor(settings, self.live, KEY)

    def settle(self, *events: Event) -> dict[str, Outcome]:
        """One batch in one transaction; the outcomes that it brought, by feedback id."""
        with self.store.transaction() as transaction:
            return self.settle_within(transaction, events)

    def settle_within(self, transaction: StoreTransaction, events: Sequence[Event]) -> dict[str, Outcome]:
        """The same within a transaction of the caller's."""
        outcomes = self._assessor.assess(transaction, join(transaction, Batch.of(events, model=self._model)))
        return {outcome.feedback_id: outcome for outcome in outcomes}

    def example(self) -> Example:
        """The one example that there is."""
        (example,) = self.store.examples()
        return example


@contextmanager
def bench(home: Path, **overrides: Any) -> Iterator[Bench]:
    """A bench that is closed at the end."""
    made = Bench(home, settings_for(home, **overrides))
    yield made
    made.store.close()


class Running:
    """The log around a consumer, and the consumers that a test starts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = open_log(settings.event_log_url, partitions=settings.log_partitions)
        self.store = ExampleStore(settings.example_store_url, settings.model)
        self._started: list[tuple[Consumer, threading.Thread]] = []

    def start(self) -> Consumer:
        """A consumer in a thread."""
        consumer = Consumer(self.settings)
        thread = threading.Thread(target=consumer.run, daemon=True)
        thread.start()
        self._started.append((consumer, thread))
        return consumer

    def stop(self) -> None:
        """End all consumers; each must end by itself."""
        for consumer, _ in self._started:
            consumer.stop()
        for _, thread in self._started:
            thread.join(20)
            assert not thread.is_alive()
        self._started.clear()

    def send(self, *events: Event | bytes) -> None:
        """Append events as the service does: keyed by prediction, else by feedback."""
        self.log.append(INTERACTIONS, [NewRecord(key=_key_of(event), value=_bytes_of(event)) for event in events])

    def drain(self, timeout_s: float = 20.0) -> None:
        """Wait until everything in the log is consumed and everything in the outbox published."""
        wait_until(self.is_drained, timeout_s=timeout_s, what="the log to be consumed")

    def is_drained(self) -> bool:
        """True if there is nothing left to do."""
        positions = self.store.positions(self.settings.consumer, INTERACTIONS)
        behind = [end for part, end in self.log.ends(INTERACTIONS).items() if positions.get(part, 0) != end]
        return not behind and not self.store.outbox_size()

    def outcomes(self) -> dict[str, Outcome]:
        """The ledger by feedback id."""
        return {outcome.feedback_id: outcome for outcome in self.store.outcomes()}

    def dead_letters(self) -> list[DeadLetter]:
        """What was dead-lettered."""
        return [letter for record in self._all(DEAD_LETTERS) if isinstance(letter := decode(record.value), DeadLetter)]

    def published(self) -> list[Example]:
        """The examples in the log."""
        return [found for record in self._all(EXAMPLES) if isinstance(found := decode(record.value), Example)]

    def _all(self, topic: str) -> list[LogRecord]:
        return self.log.read(topic, dict.fromkeys(self.log.ends(topic), 0), limit=100_000)


def _bytes_of(event: Event | bytes) -> bytes:
    return event if isinstance(event, bytes) else encode(event)


def _key_of(event: Event | bytes) -> str:
    for name in ("prediction_id", "feedback_id", "command_id"):
        if value := getattr(event, name, None):
            return str(value)
    return "garbage"


@contextmanager
def running(settings: Settings, *, consumers: int = 1, ready: bool = True) -> Iterator[Running]:
    """Consumers at work; ended at the end."""
    found = Running(settings)
    with closing(found.store), closing(found.log):
        if ready:
            found.store.migrate()
        for _ in range(consumers):
            found.start()
        try:
            yield found
        finally:
            found.stop()
