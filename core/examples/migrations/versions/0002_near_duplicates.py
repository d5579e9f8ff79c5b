"""Near-duplicates: what each example drew, its MinHash bands, and the pairs that are nearly the same.

And the targets that were rejected.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables; the feedback program fills them for examples that are there."""
    op.create_table(
        "near_texts",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("example_id", sa.String(64), primary_key=True),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("drawn", sa.String(20), nullable=False),
        sa.Column("crowded", sa.Boolean, nullable=False),
        sa.Column("rejected", sa.Boolean, nullable=False),
    )
    op.create_table(
        "near_bands",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("band", sa.BigInteger, primary_key=True),
        sa.Column("example_id", sa.String(64), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "near_pairs",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("example_id", sa.String(64), primary_key=True),
        sa.Column("other_id", sa.String(64), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rejections",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("feedback_id", sa.String(64), primary_key=True),
        sa.Column("prediction_id", sa.String(64), nullable=False),
        sa.Column("example_id", sa.String(64), nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("annotator", sa.String(200), nullable=False),
        sa.Column("trusted", sa.Boolean, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("rejections_example", "rejections", ["model", "example_id"])
