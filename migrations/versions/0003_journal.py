"""The journal of durable functions; tasks that wait for a time or for their children, and try again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskengine.store.migrate import build_index, unlocked

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BEFORE = (
    "(status, phase) IN (('working', 'queued'), ('working', 'running'), ('input_required', 'waiting'), "
    "('completed', 'done'), ('failed', 'done'), ('cancelled', 'done'))"
)
_AFTER = (
    "(status, phase) IN (('working', 'queued'), ('working', 'running'), ('input_required', 'waiting'), "
    "('working', 'waiting'), ('completed', 'done'), ('failed', 'done'), ('cancelled', 'done'))"
)


def upgrade() -> None:
    op.create_table(
        "journal",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False, comment="its place in the run: 3, or 3.0.2 within a branch"),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="the attempt that wrote it"),
        sa.Column("version", sa.Text(), nullable=True, comment="of the tool that wrote it"),
        sa.Column("done", sa.Boolean(), nullable=False, comment="false while a step waits for its next try"),
        sa.Column("value", sa.Text(), nullable=True, comment="JSON of what it gave"),
        sa.Column("error", sa.Text(), nullable=True, comment="JSON of how it failed"),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "due",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="end of a sleep, next try of a step, last moment for an answer",
        ),
        sa.Column("child_id", sa.Text(), nullable=True, comment="the task that a call made"),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_journal_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "path", name=op.f("pk_journal")),
        if_not_exists=True,
    )
    for column in (
        sa.Column(
            "parent", sa.Text(), nullable=True, comment="the task that called this one; its children end with it"
        ),
        sa.Column(
            "wake_at", sa.DateTime(timezone=True), nullable=True, comment="when a waiting task goes on by itself"
        ),
        sa.Column(
            "wake_open",
            sa.Integer(),
            nullable=True,
            comment="a waiting task goes on once no more of its children than this are alive",
        ),
        sa.Column(
            "kept_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="until then the attempt that has just ended may still go on where it is",
        ),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="attempts that failed and are tried again",
        ),
    ):
        op.add_column("tasks", column, if_not_exists=True)
    _set_states(_AFTER, postgresql_not_valid=True)
    with unlocked():
        op.execute("ALTER TABLE tasks VALIDATE CONSTRAINT ck_tasks_legal_state")
    build_index(
        "ix_tasks_wake",
        "tasks",
        ["wake_at"],
        postgresql_where=sa.text("phase = 'waiting' AND wake_at IS NOT NULL"),
    )
    build_index(
        "ix_tasks_parents",
        "tasks",
        ["id"],
        postgresql_where=sa.text("phase = 'waiting' AND wake_open IS NOT NULL"),
    )
    build_index(
        "ix_tasks_children",
        "tasks",
        ["parent"],
        postgresql_where=sa.text("parent IS NOT NULL AND phase <> 'done'"),
    )


def downgrade() -> None:
    # The code before this knows no task that waits and works: such a one runs from its top again.
    op.execute("UPDATE tasks SET phase = 'queued' WHERE status = 'working' AND phase = 'waiting'")
    op.drop_index("ix_tasks_children", table_name="tasks")
    op.drop_index("ix_tasks_parents", table_name="tasks")
    op.drop_index("ix_tasks_wake", table_name="tasks")
    _set_states(_BEFORE)
    for column in ("failures", "kept_until", "wake_open", "wake_at", "parent"):
        op.drop_column("tasks", column)
    op.drop_table("journal")


def _set_states(states: str, **options: bool) -> None:
    op.drop_constraint(op.f("ck_tasks_legal_state"), "tasks", type_="check")
    op.create_check_constraint(op.f("ck_tasks_legal_state"), "tasks", states, **options)
