"""On whose behalf a task runs, and the token that was handed over for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tasks",
        sa.Column("caller", sa.Text(), nullable=True, comment="what tools may know of the caller, as JSON; no token"),
    )
    op.add_column(
        "tasks",
        sa.Column("token", sa.Text(), nullable=True, comment="the caller's token, sealed; gone when the task ends"),
    )


def downgrade() -> None:
    op.drop_column("tasks", "token")
    op.drop_column("tasks", "caller")
