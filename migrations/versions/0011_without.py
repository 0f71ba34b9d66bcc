"""Without the indexes that those of the step before replace."""

from __future__ import annotations

from alembic import op

from taskengine.store.migrate import build_index

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE tasks DROP CONSTRAINT IF EXISTS uq_tasks_nonce")
    op.execute("DROP INDEX IF EXISTS ix_audit_at")


def downgrade() -> None:
    build_index("ix_audit_at", "audit", ["at"])
    build_index("uq_tasks_nonce", "tasks", ["nonce"], unique=True)
    op.execute("ALTER TABLE tasks ADD CONSTRAINT uq_tasks_nonce UNIQUE USING INDEX uq_tasks_nonce")
