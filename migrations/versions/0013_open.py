"""Without the index that the step before replaces: code from before counts by the one of all of an owner's tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskengine.store.migrate import build_index

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP INDEX IF EXISTS ix_tasks_open")


def downgrade() -> None:
    build_index("ix_tasks_open", "tasks", ["owner"], postgresql_where=sa.text("phase <> 'done'"))
