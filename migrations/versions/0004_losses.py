"""The history of lost attempts, and who stops the run of a cancelled task."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskengine.store.migrate import build_index, unlocked

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "losses",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True, comment="for operators; never served to clients"),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("signal", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column(
            "peak_bytes", sa.BigInteger(), nullable=True, comment="memory of the tool's process; null: not known"
        ),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_losses_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "attempt", name=op.f("pk_losses")),
        if_not_exists=True,
    )
    op.add_column(
        "tasks",
        sa.Column(
            "stopper",
            sa.Text(),
            nullable=True,
            comment="the worker that stops the run of a cancelled task and cleans up after it",
        ),
        if_not_exists=True,
    )
    op.add_column(
        "tasks",
        sa.Column(
            "stopped_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when that was over; the status message says so",
        ),
        if_not_exists=True,
    )
    # What was cancelled before is not to be cleaned up after, however late `on_cancel` is declared.
    with unlocked():
        op.execute("UPDATE tasks SET stopped_at = ended_at WHERE status = 'cancelled' AND stopped_at IS NULL")
    build_index(
        "ix_tasks_stopping",
        "tasks",
        ["tool"],
        postgresql_where=sa.text("status = 'cancelled' AND stopped_at IS NULL AND attempt > 0"),
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_stopping", table_name="tasks")
    op.drop_column("tasks", "stopped_at")
    op.drop_column("tasks", "stopper")
    op.drop_table("losses")
