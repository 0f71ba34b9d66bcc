"""Smaller indexes beside those they replace, which the next step drops: code from before goes on under either."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskengine.store.migrate import build_index

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Few tasks have a nonce, and each move of a row would take an entry for the others as well.
    build_index("ix_tasks_nonce", "tasks", ["nonce"], unique=True, postgresql_where=sa.text("nonce IS NOT NULL"))
    # What others did to somebody's tasks: by `actor` it is not found, and there is little of it.
    build_index("ix_audit_owner", "audit", ["owner", "id"], postgresql_where=sa.text("owner <> actor"))
    # Entries come in the order of their time: a summary of each megabyte finds it.
    build_index("ix_audit_time", "audit", ["at"], postgresql_using="brin", postgresql_with={"autosummarize": True})


def downgrade() -> None:
    op.drop_index("ix_audit_time", table_name="audit")
    op.drop_index("ix_audit_owner", table_name="audit")
    op.drop_index("ix_tasks_nonce", table_name="tasks")
