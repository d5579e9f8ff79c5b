"""One transaction on the example store: every effect of a batch of events, and the positions that go with it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, func, or_, select, update

from core.errors import Conflict
from core.events import EXAMPLES, Command, Event, Example, Feedback, Origin, Outcome, Prediction, encode, now
from core.examples import tables
from core.examples.engine import insert_into
from core.examples.near import NearRows
from core.examples.parked import ParkedRows
from core.examples.review import ReviewWriter

Stored = tuple[Example, datetime, str]
"""An example with the time and the id of the feedback that set its target."""


@dataclass(frozen=True, kw_only=True)
class QuarantinedClaim:
    """That an annotator claims a target that is not believed yet."""

    feedback_id: str
    example_id: str
    target: str
    annotator: str
    at: datetime

    @classmethod
    def of(cls, event: Feedback, *, example_id: str) -> Self:
        """What a feedback claims of an example."""
        return cls(
            feedback_id=event.feedback_id,
            example_id=example_id,
            target=str(event.target),
            annotator=event.annotator,
            at=event.at,
        )


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """That an annotator says a target is wrong for an example, without a better one."""

    feedback_id: str
    prediction_id: str
    example_id: str
    target: str
    annotator: str
    trusted: bool
    at: datetime


class StoreTransaction:
    """Writes and the reads they depend on, for one model. Made by :meth:`ExampleStore.transaction`."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection = connection
        self._model = model
        #: the review queue
        self.review = ReviewWriter(connection, model)
        #: what a newer Ratchet wrote
        self.parked = ParkedRows(connection, model)
        # One writer at a time per model: sequence numbers rise in the order of commits, and no update is lost.
        self._insert(tables.counters, {"model": model, "name": "examples", "value": 0})
        counters = tables.counters
        self._connection.execute(
            update(counters)
            .where(counters.c.model == model, counters.c.name == "examples")
            .values(value=counters.c.value)
        )

    @property
    def near(self) -> NearRows:
        """What is known of near-duplicates."""
        return NearRows(self._connection, self._model)

    # positions and the outbox

    def positions(self, consumer: str, topic: str) -> dict[int, int]:
        """The next offset of every partition that the consumer has begun."""
        table = tables.positions
        rows = self._connection.execute(
            select(table.c.partition, table.c.next_offset).where(table.c.consumer == consumer, table.c.topic == topic)
        )
        return {row.partition: row.next_offset for row in rows}

    def move_position(self, consumer: str, topic: str, partition: int, *, before: int, after: int) -> None:
        """Move on from ``before`` to ``after``. Raises Conflict when another consumer has moved it meanwhile."""
        table = tables.positions
        key = {"consumer": consumer, "topic": topic, "partition": partition}
        self._insert(table, {**key, "next_offset": before})
        moved = self._connection.execute(
            update(table).where(*_equals(table, key), table.c.next_offset == before).values(next_offset=after)
        )
        if moved.rowcount != 1:
            raise Conflict(f"partition {partition} of {topic} was moved on by another consumer; read it again")

    def forget_positions(self, consumer: str, topic: str, partitions: Iterable[int]) -> None:
        """Begin some partitions again: what is read twice has its outcome already."""
        table = tables.positions
        mine = (table.c.consumer == consumer, table.c.topic == topic, table.c.partition.in_(list(partitions)))
        self._connection.execute(table.delete().where(*mine))

    def publish(self, topic: str, key: str, event: Event) -> None:
        """Queue an event in the outbox: it is appended to the log after this transaction commits."""
        self._insert(tables.outbox, {"topic": topic, "key": key, "value": encode(event), "at": now()})

    # predictions

    def add_predictions(self, events: Sequence[Prediction]) -> None:
        """Keep predictions for the join; ones that are there already are left alone."""
        rows = [
            {
                "model": self._model,
                "prediction_id": event.prediction_id,
                "event": event.model_dump(mode="json"),
                "confidence": event.confidence,
                "audit": event.audit_probability is not None,
                "answered": False,
                "at": event.at,
            }
            for event in events
        ]
        if rows:
            self._insert(tables.predictions, *rows)

    def predictions(self, ids: Iterable[str]) -> dict[str, Prediction]:
        """The predictions of these ids, as far as they are here."""
        table = tables.predictions
        rows = self._connection.execute(
            select(table.c.event).where(table.c.model == self._model, table.c.prediction_id.in_(set(ids)))
        )
        found = (Prediction.model_validate(row.event) for row in rows)
        return {event.prediction_id: event for event in found}

    def mark_answered(self, *prediction_ids: str) -> None:
        """Take predictions off the review queue."""
        table = tables.predictions
        mine = (table.c.model == self._model, table.c.prediction_id.in_(prediction_ids))
        self._connection.execute(update(table).where(*mine).values(answered=True))

    # feedback that waits for its prediction

    def add_pending(self, event: Feedback) -> None:
        """Let a feedback wait for its prediction."""
        row = {"feedback_id": event.feedback_id, "prediction_id": event.prediction_id}
        self._insert(
            tables.pending_feedback,
            {"model": self._model, **row, "event": event.model_dump(mode="json"), "since": now()},
        )

    def take_pending(self, prediction_ids: Iterable[str]) -> list[Feedback]:
        """Remove and return the feedback that waited for these predictions, oldest first."""
        table = tables.pending_feedback
        return self._take_pending(table.c.prediction_id.in_(set(prediction_ids)))

    def take_expired(self, *, before: datetime, limit: int = 500) -> list[Feedback]:
        """Remove and return feedback that has waited since before a time."""
        table = tables.pending_feedback
        ids = select(table.c.feedback_id).where(table.c.model == self._model, table.c.since < before).limit(limit)
        return self._take_pending(table.c.feedback_id.in_(ids))

    def _take_pending(self, which: ColumnElement[bool]) -> list[Feedback]:
        table = tables.pending_feedback
        mine = and_(table.c.model == self._model, which)
        rows = self._connection.execute(select(table.c.event).where(mine).order_by(table.c.since)).all()
        if rows:
            found = [Feedback.model_validate(row.event) for row in rows]
            ids = [event.feedback_id for event in found]
            self._connection.execute(table.delete().where(table.c.model == self._model, table.c.feedback_id.in_(ids)))
            return found
        return []

    # the ledger

    def settled(self, feedback_ids: Iterable[str]) -> set[str]:
        """Which of these have an outcome or wait for their prediction: the log delivered them before."""
        ids = set(feedback_ids)
        found: set[str] = set()
        for table in (tables.outcomes, tables.pending_feedback):
            rows = self._connection.execute(
                select(table.c.feedback_id).where(table.c.model == self._model, table.c.feedback_id.in_(ids))
            )
            found |= {row.feedback_id for row in rows}
        return found

    def add_outcome(self, *outcomes: Outcome) -> None:
        """Write rows of the ledger; one that is there stays as it is."""
        if outcomes:
            self._insert(tables.outcomes, *(outcome.model_dump(mode="python") for outcome in outcomes))

    # examples

    def example(self, example_id: str) -> Stored | None:
        """An example with the time and the id of the feedback that set its target."""
        return self.examples([example_id]).get(example_id)

    def examples(self, ids: Iterable[str]) -> dict[str, Stored]:
        """The examples of these ids, as far as they are here."""
        table = tables.examples
        rows = self._connection.execute(
            select(table.c.event, table.c.target_at, table.c.target_by).where(
                table.c.model == self._model, table.c.example_id.in_(set(ids))
            )
        )
        found = ((Example.model_validate(row.event), row.target_at, row.target_by) for row in rows)
        return {stored[0].example_id: stored for stored in found}

    def put_example(self, example: Example, *, target_at: datetime, target_by: str) -> Example:
        """Store an example (or its new state) under the next sequence number, and publish it."""
        (numbered,) = self.put_examples([(example, target_at, target_by)])
        return numbered

    def put_examples(self, states: Sequence[Stored]) -> list[Example]:
        """The same for several, each of another id, in their order."""
        if not states:
            return []
        last, at = self._count_on(len(states)), now()
        rows, published = [], []
        for seq, (example, target_at, target_by) in enumerate(states, start=last - len(states) + 1):
            numbered = example.model_copy(update={"seq": seq, "at": at})
            published.append(numbered)
            rows.append(
                {
                    "model": self._model,
                    "example_id": numbered.example_id,
                    "seq": seq,
                    "event": numbered.model_dump(mode="json"),
                    "label": str(numbered.target),
                    "origin": numbered.origin,
                    "split": numbered.split,
                    "selected": numbered.selected,
                    "target_at": target_at,
                    "target_by": target_by,
                }
            )
        key = ["model", "example_id"]
        statement = insert_into(self._connection, tables.examples)
        renewed = {name: statement.excluded[name] for name in rows[0] if name not in key}
        self._connection.execute(statement.on_conflict_do_update(index_elements=key, set_=renewed), rows)
        left = [
            {"topic": EXAMPLES, "key": example.example_id, "value": encode(example), "at": at} for example in published
        ]
        self._insert(tables.outbox, *left)
        return published

    def note(self, states: Sequence[Stored]) -> None:
        """Keep what is no news to anybody (more sources, a target that was said again): no number, nothing published."""
        table = tables.examples
        rows = [
            {
                "of": example.example_id,
                "event": example.model_dump(mode="json"),
                "target_at": target_at,
                "target_by": target_by,
            }
            for example, target_at, target_by in states
        ]
        if rows:
            mine = (table.c.model == self._model, table.c.example_id == bindparam("of"))
            values: dict[str, Any] = {name: bindparam(name) for name in ("event", "target_at", "target_by")}
            self._connection.execute(update(table).where(*mine).values(**values), rows)

    def label_counts(self, origin: Origin | None = None) -> dict[str, int]:
        """How many examples each label has, of all origins or of one."""
        table = tables.examples
        query = select(table.c.label, func.count()).where(table.c.model == self._model).group_by(table.c.label)
        if origin is not None:
            query = query.where(table.c.origin == origin)
        return {label: int(count) for label, count in self._connection.execute(query)}

    def _count_on(self, count: int) -> int:
        """Take so many sequence numbers; returns the last of them."""
        counters = tables.counters
        mine = and_(counters.c.model == self._model, counters.c.name == "examples")
        self._connection.execute(update(counters).where(mine).values(value=counters.c.value + count))
        return int(self._connection.execute(select(counters.c.value).where(mine)).scalar_one())

    # quarantine and commands

    def add_quarantined(self, event: Feedback, *, example_id: str) -> None:
        """Remember that an annotator claims a target that is not believed yet."""
        self.add_claims(QuarantinedClaim.of(event, example_id=example_id))

    def add_claims(self, *claims: QuarantinedClaim) -> None:
        """The same for several."""
        if claims:
            self._insert(tables.quarantine, *({"model": self._model, **vars(claim)} for claim in claims))

    def quarantined(self, *, target: str, example_id: str | None = None) -> dict[str, str]:
        """Claims of a target (for one example, or for any) that were not believed alone: annotator by feedback id."""
        found = self.claims(targets=[target], example_ids=[])
        return {claim.feedback_id: claim.annotator for claim in found if example_id in (None, claim.example_id)}

    def claims(self, *, targets: Iterable[str], example_ids: Iterable[str]) -> list[QuarantinedClaim]:
        """Claims that were not believed alone: those of one of the targets, and those about one of the examples."""
        table = tables.quarantine
        which = or_(table.c.target.in_(set(targets)), table.c.example_id.in_(set(example_ids)))
        rows = self._connection.execute(select(table).where(table.c.model == self._model, which))
        names = [field.name for field in fields(QuarantinedClaim)]
        return [QuarantinedClaim(**{name: row[name] for name in names}) for row in rows.mappings()]

    def add_rejections(self, *rejections: Rejection) -> None:
        """Remember targets that somebody says are wrong."""
        if rejections:
            self._insert(tables.rejections, *({"model": self._model, **vars(item)} for item in rejections))

    def rejections(self, example_ids: Iterable[str]) -> list[Rejection]:
        """What was rejected of these examples, whether they are stored or not."""
        table = tables.rejections
        mine = (table.c.model == self._model, table.c.example_id.in_(set(example_ids)))
        rows = self._connection.execute(select(table).where(*mine)).mappings()
        return [Rejection(**{field.name: row[field.name] for field in fields(Rejection)}) for row in rows]

    def mark(self, name: str) -> None:
        """Note that something (a name of at most 20 characters) is done for this model."""
        self._insert(tables.counters, {"model": self._model, "name": name, "value": 1})

    def is_marked(self, name: str) -> bool:
        """True if it was noted as done."""
        counters = tables.counters
        query = select(counters.c.value).where(counters.c.model == self._model, counters.c.name == name)
        return self._connection.execute(query).first() is not None

    def mark_seeded(self, labels: Iterable[str]) -> None:
        """Note that the seed has these labels, whatever becomes of its examples."""
        rows = [{"model": self._model, "name": _label_mark(label), "value": 1} for label in labels]
        if rows:
            self._insert(tables.counters, *rows)

    def seeded(self, labels: Iterable[str]) -> set[str]:
        """Those of these labels that the seed has."""
        names = {_label_mark(label): label for label in labels}
        counters = tables.counters
        query = select(counters.c.name).where(counters.c.model == self._model, counters.c.name.in_(names))
        return {names[name] for name in self._connection.execute(query).scalars()}

    def add_command(self, event: Command) -> None:
        """Keep an operator's command for the trainer."""
        row = {"command_id": event.command_id, "action": event.action, "at": event.at}
        self._insert(tables.commands, {"model": self._model, **row, "event": event.model_dump(mode="json")})

    def _insert(self, table: Table, *rows: dict[str, Any]) -> None:
        """Insert what is not there yet."""
        self._connection.execute(insert_into(self._connection, table).on_conflict_do_nothing(), list(rows))


def _equals(table: Table, key: dict[str, Any]) -> list[ColumnElement[bool]]:
    return [table.c[name] == value for name, value in key.items()]


def _label_mark(label: str) -> str:
    return f"label:{hashlib.blake2b(label.encode(), digest_size=7).hexdigest()}"
