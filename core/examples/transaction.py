"""One transaction on the example store: every effect of a batch of events, and the positions that go with it."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from core.errors import Conflict
from core.events import EXAMPLES, Command, Event, Example, Feedback, Outcome, Prediction, Split, encode, now
from core.examples import tables
from core.examples.review import ReviewWriter


class StoreTransaction:
    """Writes and the reads they depend on, for one model. Made by :meth:`ExampleStore.transaction`."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection = connection
        self._model = model
        #: the review queue
        self.review = ReviewWriter(connection, model)
        # One writer at a time per model: sequence numbers rise in the order of commits, and no update is lost.
        self._insert(tables.counters, {"model": model, "name": "examples", "value": 0})
        counters = tables.counters
        self._connection.execute(
            update(counters)
            .where(counters.c.model == model, counters.c.name == "examples")
            .values(value=counters.c.value)
        )

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

    def mark_answered(self, prediction_ids: Iterable[str]) -> None:
        """Note that somebody has said something about predictions."""
        table = tables.predictions
        which = and_(table.c.model == self._model, table.c.prediction_id.in_(set(prediction_ids)))
        self._connection.execute(update(table).where(which).values(answered=True))

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

    def add_outcome(self, outcome: Outcome) -> None:
        """Write a row of the ledger; one that is there stays as it is."""
        self._insert(tables.outcomes, outcome.model_dump(mode="python"))

    # examples

    def example(self, example_id: str) -> tuple[Example, datetime, str] | None:
        """An example with the time and the id of the feedback that set its target."""
        table = tables.examples
        row = self._connection.execute(
            select(table.c.event, table.c.target_at, table.c.target_by).where(
                table.c.model == self._model, table.c.example_id == example_id
            )
        ).first()
        return (Example.model_validate(row.event), row.target_at, row.target_by) if row else None

    def put_example(self, example: Example, *, target_at: datetime, target_by: str) -> Example:
        """Store an example (or its new state) under the next sequence number, and publish it."""
        numbered = example.model_copy(update={"seq": self._next_seq(), "at": now()})
        values: dict[str, Any] = {
            "seq": numbered.seq,
            "event": numbered.model_dump(mode="json"),
            "label": str(numbered.target),
            "origin": numbered.origin,
            "split": numbered.split,
            "selected": numbered.selected,
            "target_at": target_at,
            "target_by": target_by,
        }
        key = {"model": self._model, "example_id": numbered.example_id}
        statement = self._insert_into(tables.examples).values(**key, **values)
        self._connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))
        self.publish(EXAMPLES, numbered.example_id, numbered)
        return numbered

    def add_source(self, example: Example, source: str) -> None:
        """Note one more source of an example; that is no news to anybody, so it gets no new sequence number."""
        sources = sorted({*example.sources, source})
        if sources != example.sources:
            event = example.model_copy(update={"sources": sources}).model_dump(mode="json")
            self._update(tables.examples, {"example_id": example.example_id}, event=event)

    def renew_target(self, example: Example, *, target_at: datetime, target_by: str) -> None:
        """Note that the target was said again: what was said before that, but comes later, does not replace it."""
        table = tables.examples
        older = (table.c.target_at < target_at) | ((table.c.target_at == target_at) & (table.c.target_by < target_by))
        key = {"model": self._model, "example_id": example.example_id}
        values = {"target_at": target_at, "target_by": target_by}
        self._connection.execute(update(table).where(*_equals(table, key), older).values(**values))

    def label_counts(self) -> dict[str, int]:
        """How many examples each label has."""
        table = tables.examples
        query = select(table.c.label, func.count()).where(table.c.model == self._model).group_by(table.c.label)
        return {label: int(count) for label, count in self._connection.execute(query)}

    def trained_count(self, label: str) -> int:
        """How many examples of a label may be trained on."""
        table = tables.examples
        query = select(func.count()).where(
            table.c.model == self._model, table.c.label == label, table.c.split == Split.TRAIN
        )
        return int(self._connection.execute(query).scalar_one())

    def _next_seq(self) -> int:
        counters = tables.counters
        mine = and_(counters.c.model == self._model, counters.c.name == "examples")
        self._connection.execute(update(counters).where(mine).values(value=counters.c.value + 1))
        return int(self._connection.execute(select(counters.c.value).where(mine)).scalar_one())

    # quarantine and commands

    def add_quarantined(self, event: Feedback, *, example_id: str) -> None:
        """Remember that an annotator claims a target that is not believed yet."""
        self._insert(
            tables.quarantine,
            {
                "model": self._model,
                "feedback_id": event.feedback_id,
                "example_id": example_id,
                "target": str(event.target),
                "annotator": event.annotator,
                "at": event.at,
            },
        )

    def quarantined(self, *, target: str, example_id: str | None = None) -> dict[str, str]:
        """Claims of a target (for one example, or for any) that were not believed alone: annotator by feedback id."""
        table = tables.quarantine
        query = select(table.c.feedback_id, table.c.annotator).where(
            table.c.model == self._model, table.c.target == target
        )
        if example_id is not None:
            query = query.where(table.c.example_id == example_id)
        return {row.feedback_id: row.annotator for row in self._connection.execute(query)}

    def mark(self, name: str) -> None:
        """Note that something (a name of at most 20 characters) is done for this model."""
        self._insert(tables.counters, {"model": self._model, "name": name, "value": 1})

    def is_marked(self, name: str) -> bool:
        """True if it was noted as done."""
        counters = tables.counters
        query = select(counters.c.value).where(counters.c.model == self._model, counters.c.name == name)
        return self._connection.execute(query).first() is not None

    def add_command(self, event: Command) -> None:
        """Keep an operator's command for the trainer."""
        row = {"command_id": event.command_id, "action": event.action, "at": event.at}
        self._insert(tables.commands, {"model": self._model, **row, "event": event.model_dump(mode="json")})

    def _insert(self, table: Table, *rows: dict[str, Any]) -> None:
        """Insert what is not there yet."""
        self._connection.execute(self._insert_into(table).on_conflict_do_nothing(), list(rows))

    def _insert_into(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        insert = postgresql.insert if self._connection.dialect.name == "postgresql" else sqlite.insert
        return insert(table)

    def _update(self, table: Table, key: dict[str, Any], **values: Any) -> None:
        self._connection.execute(update(table).where(*_equals(table, {"model": self._model, **key})).values(**values))


def _equals(table: Table, key: dict[str, Any]) -> list[ColumnElement[bool]]:
    return [table.c[name] == value for name, value in key.items()]
