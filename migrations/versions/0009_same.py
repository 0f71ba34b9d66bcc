"""Calls that are the same call: by an idempotency key of the client's, or by their arguments within some time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskengine.store.migrate import build_index

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tasks",
        sa.Column("same", sa.Text(), nullable=True, comment="digest under which another call of the owner is this one"),
        if_not_exists=True,
    )
    # Code from before leaves the column empty, and so sees nothing of the index.
    build_index(
        "ix_tasks_same",
        "tasks",
        ["owner", "same"],
        unique=True,
        postgresql_where=sa.text("same IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_same", table_name="tasks")
    op.drop_column("tasks", "same")
