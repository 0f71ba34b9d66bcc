"""Who did what, in a table that only grows; what of a task operators must not see, and the trace it belongs to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Nobody changes an entry, and only the sweep of old ones, which says so in its transaction, deletes any. It guards
# against mistakes and against a statement that was smuggled in, not against the owner of the database.
GUARD = """
CREATE FUNCTION taskengine_audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('taskengine.audit_sweep', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION USING MESSAGE = 'the audit log only grows: ' || TG_OP || ' refused';
END
$$
"""
ROWS = """
CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE ON audit
FOR EACH ROW EXECUTE FUNCTION taskengine_audit_guard()
"""
WHOLE = """
CREATE TRIGGER audit_is_kept BEFORE TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION taskengine_audit_guard()
"""


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False, comment="who did it: an owner of tasks, or operator"),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=True, comment="no reference: the entry outlives its task"),
        sa.Column("owner", sa.Text(), nullable=True, comment="of the task, where it is known"),
        sa.Column("tool", sa.Text(), nullable=True),
        sa.Column(
            "times", sa.Integer(), server_default="1", nullable=False, comment="how often within the same moment"
        ),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)
    op.create_index(
        "ix_audit_task_id",
        "audit",
        ["task_id"],
        unique=False,
        postgresql_where=sa.text("task_id IS NOT NULL"),
    )
    op.create_index("ix_audit_actor", "audit", ["actor", "id"], unique=False)
    op.execute(GUARD)
    op.execute(ROWS)
    op.execute(WHOLE)
    op.add_column(
        "tasks",
        sa.Column(
            "sensitive",
            sa.Text(),
            nullable=True,
            comment="JSON list of the parameters that operators must not see; * for everything",
        ),
    )
    op.add_column(
        "tasks", sa.Column("traceparent", sa.Text(), nullable=True, comment="traceparent of the call that made it")
    )


def downgrade() -> None:
    op.drop_column("tasks", "traceparent")
    op.drop_column("tasks", "sensitive")
    op.drop_table("audit")
    op.execute("DROP FUNCTION taskengine_audit_guard()")
