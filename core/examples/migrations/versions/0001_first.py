"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "positions",
        sa.Column("consumer", sa.String(100), primary_key=True),
        sa.Column("topic", sa.String(100), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "predictions",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("prediction_id", sa.String(64), primary_key=True),
        sa.Column("event", sa.JSON, nullable=False),
        sa.Column("confidence", sa.Float, nullable=False),
        sa.Column("audit", sa.Boolean, nullable=False),
        sa.Column("answered", sa.Boolean, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_index("predictions_at", "predictions", ["model", "at"])
    op.create_index("predictions_review", "predictions", ["model", "answered", "audit", "confidence"])
    op.create_table(
        "pending_feedback",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("feedback_id", sa.String(64), primary_key=True),
        sa.Column("prediction_id", sa.String(64), nullable=False),
        sa.Column("event", sa.JSON, nullable=False),
        sa.Column("since", _TIME, nullable=False),
    )
    op.create_index("pending_feedback_prediction", "pending_feedback", ["model", "prediction_id"])
    op.create_index("pending_feedback_since", "pending_feedback", ["model", "since"])
    op.create_table(
        "outcomes",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("feedback_id", sa.String(64), primary_key=True),
        sa.Column("prediction_id", sa.String(64)),
        sa.Column("example_id", sa.String(64)),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("feedback_id", sa.String(64), primary_key=True),
        sa.Column("example_id", sa.String(64), nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("annotator", sa.String(200), nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_index("quarantine_example", "quarantine", ["model", "example_id"])
    op.create_table(
        "examples",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("example_id", sa.String(64), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("event", sa.JSON, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("origin", sa.String(20), nullable=False),
        sa.Column("split", sa.String(20), nullable=False),
        sa.Column("selected", sa.Boolean, nullable=False),
        sa.Column("target_at", _TIME, nullable=False),
        sa.Column("target_by", sa.String(64), nullable=False),
    )
    op.create_index("examples_seq", "examples", ["model", "seq"])
    op.create_index("examples_label", "examples", ["model", "label"])
    op.create_table(
        "counters",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "commands",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("command_id", sa.String(64), primary_key=True),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("event", sa.JSON, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("topic", sa.String(100), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("lane", sa.String(20), primary_key=True),
        sa.Column("holder", sa.String(100), nullable=False),
        sa.Column("fencing", sa.BigInteger, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
    )
