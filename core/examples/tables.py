"""The tables of the example store. Alembic migrations make them; tests check that both agree."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy import DateTime as _DateTime


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps no time zone, so it is put back on reading."""

    impl = _DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Store UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Read UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

#: SQLite only numbers rows by itself in a column of type INTEGER
_SERIAL = BigInteger().with_variant(Integer, "sqlite")

positions = Table(
    "positions",
    metadata,
    Column("consumer", String(100), primary_key=True),
    Column("topic", String(100), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
)

predictions = Table(
    "predictions",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("prediction_id", String(64), primary_key=True),
    Column("event", JSON, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("audit", Boolean, nullable=False),
    Column("answered", Boolean, nullable=False),
    Column("at", UtcDateTime(), nullable=False),
    Index("predictions_at", "model", "at"),
)

#: predictions that wait for a human answer: drawn by lot (with the probability of the draw), or chosen (without)
review = Table(
    "review",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("prediction_id", String(64), primary_key=True),
    Column("lot", Float, nullable=False),
    Column("probability", Float),
    Column("doubt", Float, nullable=False),
    Column("score", Float),
    Column("reason", Text, nullable=False),
    #: in the order of the strategy's choice, from 0
    Column("place", Integer),
    #: digest of the graph that made the embedding; vectors of different graphs are never compared
    Column("graph", String(64)),
    Column("embedding", LargeBinary),
    Column("answered", Boolean, nullable=False),
    Column("at", UtcDateTime(), nullable=False),
    Index("review_place", "model", "answered", "place"),
    Index("review_lot", "model", "answered", "lot"),
    Index("review_at", "model", "at"),
)

#: answers that were asked for, against what the model had said: accuracy is estimated from those with a probability
review_answers = Table(
    "review_answers",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("prediction_id", String(64), primary_key=True),
    Column("model_version", String(64), nullable=False),
    Column("probability", Float),
    Column("queued", Boolean, nullable=False),
    Column("correct", Boolean, nullable=False),
    Column("at", UtcDateTime(), nullable=False),
    Index("review_answers_at", "model", "at"),
)

pending_feedback = Table(
    "pending_feedback",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("feedback_id", String(64), primary_key=True),
    Column("prediction_id", String(64), nullable=False),
    Column("event", JSON, nullable=False),
    Column("since", UtcDateTime(), nullable=False),
    Index("pending_feedback_prediction", "model", "prediction_id"),
    Index("pending_feedback_since", "model", "since"),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("feedback_id", String(64), primary_key=True),
    Column("prediction_id", String(64)),
    Column("example_id", String(64)),
    Column("status", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", UtcDateTime(), nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("feedback_id", String(64), primary_key=True),
    Column("example_id", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("annotator", String(200), nullable=False),
    Column("at", UtcDateTime(), nullable=False),
    Index("quarantine_example", "model", "example_id"),
)

#: a target that somebody says is wrong for an example, without a better one
rejections = Table(
    "rejections",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("feedback_id", String(64), primary_key=True),
    Column("prediction_id", String(64), nullable=False),
    Column("example_id", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("annotator", String(200), nullable=False),
    Column("trusted", Boolean, nullable=False),
    Column("at", UtcDateTime(), nullable=False),
    Index("rejections_example", "model", "example_id"),
)

examples = Table(
    "examples",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("example_id", String(64), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("event", JSON, nullable=False),
    Column("label", Text, nullable=False),
    Column("origin", String(20), nullable=False),
    Column("split", String(20), nullable=False),
    Column("selected", Boolean, nullable=False),
    #: the time and the id of the feedback that set the target: of two, the later one holds, in whatever order they come
    Column("target_at", UtcDateTime(), nullable=False),
    Column("target_by", String(64), nullable=False),
    Index("examples_seq", "model", "seq"),
    Index("examples_label", "model", "label"),
)

#: what an example drew, by which it or one near it may judge
near_texts = Table(
    "near_texts",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("example_id", String(64), primary_key=True),
    Column("rank", Integer, nullable=False),
    Column("drawn", String(20), nullable=False),
    Column("crowded", Boolean, nullable=False),
    Column("rejected", Boolean, nullable=False),
)

#: keyed MinHash bands: examples that share some are compared
near_bands = Table(
    "near_bands",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("band", BigInteger, primary_key=True),
    Column("example_id", String(64), primary_key=True),
    sqlite_with_rowid=False,
)

#: each pair of near examples, from both sides
near_pairs = Table(
    "near_pairs",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("example_id", String(64), primary_key=True),
    Column("other_id", String(64), primary_key=True),
    sqlite_with_rowid=False,
)

counters = Table(
    "counters",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("name", String(20), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("command_id", String(64), primary_key=True),
    Column("action", String(20), nullable=False),
    Column("event", JSON, nullable=False),
    Column("at", UtcDateTime(), nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    Column("topic", String(100), nullable=False),
    Column("key", String(200), nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("at", UtcDateTime(), nullable=False),
)

parked = Table(
    "parked",
    metadata,
    Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    Column("model", String(63), nullable=False),
    Column("topic", String(100), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("key", String(200), nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("at", UtcDateTime(), nullable=False),
    Column("parked_at", UtcDateTime(), nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("lane", String(20), primary_key=True),
    Column("holder", String(100), nullable=False),
    Column("fencing", BigInteger, nullable=False),
    Column("expires_at", UtcDateTime(), nullable=False),
)
