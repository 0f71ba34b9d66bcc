"""An index for counting an owner's open tasks that no other can stand in for; the next step drops the one before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskengine.store.migrate import build_index

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Others are of all tasks that are not done, said in these words. Where Postgres knew of few tasks, it took one of
    # them for as good, and walked through everybody's tasks to count those of one owner.
    build_index("ix_tasks_unended", "tasks", ["owner"], postgresql_where=sa.text("ended_at IS NULL"))


def downgrade() -> None:
    op.drop_index("ix_tasks_unended", table_name="tasks")
