"""The example store as the programs see it: transactions for the feedback program, questions for everybody."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, delete, func, select

from core.errors import StoreUnavailable
from core.events import Command, Example, Origin, Outcome, Prediction, Split
from core.examples import tables
from core.examples.content import ContentReader
from core.examples.engine import connected, migrate, open_engine
from core.examples.leases import LeaseKeeper
from core.examples.parked import ParkedRecord, ParkedRows
from core.examples.review_view import ReviewReader
from core.examples.transaction import StoreTransaction


@dataclass(frozen=True, kw_only=True)
class PendingFeedback:
    """The join's backlog: how many feedbacks wait for their prediction, and since when the oldest."""

    count: int
    oldest: datetime | None


@dataclass(frozen=True, kw_only=True)
class OutboxRow:
    """An event that a transaction left to be appended to the log."""

    seq: int
    topic: str
    key: str
    value: bytes


@dataclass(frozen=True, kw_only=True)
class NewExamples:
    """What training has not seen: how many selected examples, the oldest's time, and the newest sequence number."""

    count: int
    oldest: datetime | None
    newest_seq: int


class ExampleStore:
    """The examples of one model. Thread-safe; every call raises StoreUnavailable when the database cannot be used."""

    def __init__(self, url: str, model: str) -> None:
        """Prepare a connection. Raises BadSettings for a URL that cannot work."""
        self._engine = open_engine(url)
        self._model = model
        self.model = model

    def migrate(self) -> None:
        """Bring the tables to the newest schema."""
        migrate(self._engine)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def leases(self, *, holder: str, ttl_s: float) -> LeaseKeeper:
        """Leases on this model's lanes, for one holder."""
        return LeaseKeeper(self._engine, self._model, holder=holder, ttl_s=ttl_s)

    @contextmanager
    def transaction(self) -> Iterator[StoreTransaction]:
        """All or nothing: committed on leaving, rolled back by any exception."""
        with connected(self._engine, write=True) as connection:
            yield StoreTransaction(connection, self._model)

    def positions(self, consumer: str, topic: str) -> dict[int, int]:
        """The next offset of every partition that a consumer has begun."""
        table = tables.positions
        query = select(table.c.partition, table.c.next_offset).where(
            table.c.consumer == consumer, table.c.topic == topic
        )
        with connected(self._engine, write=False) as connection:
            return {row.partition: row.next_offset for row in connection.execute(query)}

    # the outbox

    def outbox(self, *, limit: int = 500) -> list[OutboxRow]:
        """The oldest events that wait to be appended to the log."""
        table = tables.outbox
        with connected(self._engine, write=False) as connection:
            rows = connection.execute(select(table).order_by(table.c.seq).limit(limit))
            return [OutboxRow(seq=row.seq, topic=row.topic, key=row.key, value=row.value) for row in rows]

    def outbox_sent(self, rows: Sequence[OutboxRow]) -> None:
        """Forget events that the log has taken.

        SQLite gives a number again once its row is gone, and another program may have sent these rows, too: what has
        taken their numbers since then stays, by its content.
        """
        table = tables.outbox
        if rows:
            with connected(self._engine, write=True) as connection:
                connection.execute(
                    delete(table).where(table.c.seq == bindparam("sent"), table.c.value == bindparam("content")),
                    [{"sent": row.seq, "content": row.value} for row in rows],
                )

    def outbox_size(self) -> int:
        """How many events wait."""
        with connected(self._engine, write=False) as connection:
            return int(connection.execute(select(func.count()).select_from(tables.outbox)).scalar_one())

    def parked(self, *, schema_version: int, limit: int) -> list[ParkedRecord]:
        """The oldest records of a newer Ratchet that a program can read now which reads up to ``schema_version``."""
        with connected(self._engine, write=False) as connection:
            return ParkedRows(connection, self._model).readable(schema_version=schema_version, limit=limit)

    def parked_count(self) -> int:
        """How many records of a newer Ratchet wait."""
        with connected(self._engine, write=False) as connection:
            return ParkedRows(connection, self._model).count()

    # what the service shows

    def outcome(self, feedback_id: str) -> Outcome | None:
        """What became of a feedback, None while nothing has."""
        table = tables.outcomes
        query = select(table).where(table.c.model == self._model, table.c.feedback_id == feedback_id)
        with connected(self._engine, write=False) as connection:
            row = connection.execute(query).mappings().first()
        return Outcome.model_validate(dict(row)) if row else None

    def outcomes(self) -> list[Outcome]:
        """The whole ledger, oldest first."""
        table = tables.outcomes
        with connected(self._engine, write=False) as connection:
            rows = connection.execute(select(table).where(table.c.model == self._model).order_by(table.c.at)).mappings()
            return [Outcome.model_validate(dict(row)) for row in rows]

    def outcome_counts(self) -> dict[str, int]:
        """Rows of the ledger by status."""
        table = tables.outcomes
        query = select(table.c.status, func.count()).where(table.c.model == self._model).group_by(table.c.status)
        with connected(self._engine, write=False) as connection:
            return {status: int(count) for status, count in connection.execute(query)}

    def is_pending(self, feedback_id: str) -> bool:
        """True while a feedback waits for its prediction."""
        table = tables.pending_feedback
        query = select(table.c.feedback_id).where(table.c.model == self._model, table.c.feedback_id == feedback_id)
        with connected(self._engine, write=False) as connection:
            return connection.execute(query).first() is not None

    @contextmanager
    def review(self) -> Iterator[ReviewReader]:
        """The review queue as it is at this moment, for reading."""
        with connected(self._engine, write=False) as connection:
            yield ReviewReader(connection, self._model)

    @contextmanager
    def content(self) -> Iterator[ContentReader]:
        """What the store holds at this moment, for a report."""
        with connected(self._engine, write=False) as connection:
            yield ContentReader(connection, self._model)

    def pending(self) -> PendingFeedback:
        """How much feedback waits for its prediction."""
        table = tables.pending_feedback
        query = select(func.count(), func.min(table.c.since)).where(table.c.model == self._model)
        with connected(self._engine, write=False) as connection:
            count, oldest = connection.execute(query).one()
        return PendingFeedback(count=count, oldest=oldest)

    # what pseudo-labels are made of

    def confident(self, *, at_least: float, after: datetime | None, limit: int) -> list[Prediction]:
        """Predictions of some confidence that nobody answered and no audit drew, made after a time, oldest first."""
        table = tables.predictions
        query = select(table.c.event).where(
            table.c.model == self._model,
            table.c.answered.is_(False),
            table.c.audit.is_(False),
            table.c.confidence >= at_least,
        )
        if after is not None:
            query = query.where(table.c.at > after)
        with connected(self._engine, write=False) as connection:
            rows = connection.execute(query.order_by(table.c.at).limit(limit))
            return [Prediction.model_validate(row.event) for row in rows]

    def labelled(self, *, limit: int) -> list[Example]:
        """Training examples that people labelled, chosen by their ids, which are as good as random."""
        table = tables.examples
        guesses = (Origin.PSEUDO_LABEL, Origin.IMPLICIT)
        mine = (table.c.model == self._model, table.c.split == Split.TRAIN, table.c.origin.not_in(guesses))
        query = select(table.c.event).where(*mine).order_by(table.c.example_id).limit(limit)
        with connected(self._engine, write=False) as connection:
            return [Example.model_validate(row.event) for row in connection.execute(query)]

    # what the trainer asks

    def examples(self, *, after: int = 0, through: int | None = None) -> list[Example]:
        """Examples with ``after < seq <= through``, in the order of their sequence numbers."""
        table = tables.examples
        query = select(table.c.event).where(table.c.model == self._model, table.c.seq > after).order_by(table.c.seq)
        if through is not None:
            query = query.where(table.c.seq <= through)
        with connected(self._engine, write=False) as connection:
            return [Example.model_validate(row.event) for row in connection.execute(query)]

    def new_examples(self, *, after: int) -> NewExamples:
        """What there is to train on behind a sequence number. Seeds, too, where nothing was trained yet."""
        table = tables.examples
        mine = table.c.model == self._model
        chosen = (mine, table.c.seq > after, table.c.selected.is_(True), table.c.split == Split.TRAIN)
        with connected(self._engine, write=False) as connection:
            count, oldest = connection.execute(select(func.count(), func.min(table.c.target_at)).where(*chosen)).one()
            newest = connection.execute(select(func.max(table.c.seq)).where(mine)).scalar_one()
        return NewExamples(count=count, oldest=oldest, newest_seq=newest or 0)

    def example_counts(self) -> dict[tuple[Origin, Split], int]:
        """Examples by origin and split."""
        table = tables.examples
        query = (
            select(table.c.origin, table.c.split, func.count())
            .where(table.c.model == self._model)
            .group_by(table.c.origin, table.c.split)
        )
        with connected(self._engine, write=False) as connection:
            rows = connection.execute(query)
            return {(Origin(origin), Split(split)): int(count) for origin, split, count in rows}

    def commands(self) -> list[Command]:
        """The operators' newest commands, oldest first."""
        table = tables.commands
        query = select(table.c.event).where(table.c.model == self._model).order_by(table.c.at.desc()).limit(100)
        with connected(self._engine, write=False) as connection:
            return [Command.model_validate(row.event) for row in reversed(connection.execute(query).all())]

    # housekeeping

    def forget_predictions(self, *, before: datetime) -> int:
        """Remove predictions made before a time; returns how many."""
        table = tables.predictions
        with connected(self._engine, write=True) as connection:
            gone = connection.execute(delete(table).where(table.c.model == self._model, table.c.at < before))
            return int(gone.rowcount)


__all__ = ["ExampleStore", "NewExamples", "OutboxRow", "PendingFeedback", "StoreTransaction", "StoreUnavailable"]
