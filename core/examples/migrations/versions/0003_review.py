"""The review queue, and what was answered in it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the two tables; predictions are no longer asked for in an order of their own."""
    op.create_table(
        "review",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("prediction_id", sa.String(64), primary_key=True),
        sa.Column("lot", sa.Float, nullable=False),
        sa.Column("probability", sa.Float),
        sa.Column("doubt", sa.Float, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("place", sa.Integer),
        sa.Column("graph", sa.String(64)),
        sa.Column("embedding", sa.LargeBinary),
        sa.Column("answered", sa.Boolean, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_index("review_place", "review", ["model", "answered", "place"])
    op.create_index("review_lot", "review", ["model", "answered", "lot"])
    op.create_index("review_at", "review", ["model", "at"])
    op.create_table(
        "review_answers",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("prediction_id", sa.String(64), primary_key=True),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("probability", sa.Float),
        sa.Column("queued", sa.Boolean, nullable=False),
        sa.Column("correct", sa.Boolean, nullable=False),
        sa.Column("at", _TIME, nullable=False),
    )
    op.create_index("review_answers_at", "review_answers", ["model", "at"])
    op.drop_index("predictions_review", table_name="predictions")
