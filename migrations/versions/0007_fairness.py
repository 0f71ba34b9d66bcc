"""Turns that are fair among owners, priorities, limits of what runs at once, and queues that are paused."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from taskengine.store.migrate import build_index, unlocked

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

QUEUED = "phase = 'queued'"
WAITS = f"{QUEUED} AND blocked_by IS NULL"
DUE = ["queue", "priority DESC", "turn", "created_at"]
INDEXES = {
    "ix_tasks_blocked": (
        ["blocked_by", "priority DESC", "turn", "created_at"],
        f"{QUEUED} AND blocked_by IS NOT NULL",
    ),
    "ix_tasks_first": (["owner", "queue", "priority", "turn"], f"{QUEUED} AND attempt = 0"),
    "ix_tasks_again": (["owner", "queue", "priority", "turn"], f"{QUEUED} AND attempt > 0"),
    "ix_tasks_open": (["owner"], "phase <> 'done'"),
    "ix_tasks_limited": (
        ["tool"],
        "limit_keys IS NOT NULL AND (worker_id IS NOT NULL OR kept_until IS NOT NULL)",
    ),
}


def upgrade() -> None:
    op.execute("CREATE SEQUENCE IF NOT EXISTS turns")
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_queues")),
        if_not_exists=True,
    )
    for column in (
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False, comment="higher goes first"),
        # A constant first: with the sequence as its default the whole table would be written anew, under a lock.
        sa.Column(
            "turn",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="the order among tasks of one queue and priority, fair among owners",
        ),
        sa.Column(
            "limit_keys",
            sa.ARRAY(sa.Text()),
            nullable=True,
            comment="what it counts against while it runs; null: nothing",
        ),
        sa.Column(
            "limit_sizes", sa.ARRAY(sa.Integer()), nullable=True, comment="how many may run under each of these keys"
        ),
        sa.Column(
            "blocked_by",
            sa.Text(),
            nullable=True,
            comment="the key under which too many run; it is not due until one of them ends",
        ),
    ):
        op.add_column("tasks", column, if_not_exists=True)
    # Code from before, which serves on for a while, leaves the column out: its tasks come last and in their order.
    op.alter_column("tasks", "turn", server_default=sa.text("nextval('turns'::regclass)"))
    op.execute("ALTER TABLE tasks DROP CONSTRAINT IF EXISTS ck_tasks_limits_have_sizes")
    op.create_check_constraint(
        op.f("ck_tasks_limits_have_sizes"),
        "tasks",
        "cardinality(limit_keys) = cardinality(limit_sizes)",
        postgresql_not_valid=True,
    )
    with unlocked():
        op.execute("ALTER TABLE tasks VALIDATE CONSTRAINT ck_tasks_limits_have_sizes")
    for name, (columns, where) in INDEXES.items():
        build_index(name, "tasks", _named(columns), postgresql_where=sa.text(where))
    # Its namesake serves the code from before until this one is there.
    build_index("ix_tasks_due_by_turn", "tasks", _named(DUE), postgresql_where=sa.text(WAITS))
    with unlocked():
        op.drop_index("ix_tasks_due", table_name="tasks", if_exists=True)
        op.execute("ALTER INDEX ix_tasks_due_by_turn RENAME TO ix_tasks_due")


def downgrade() -> None:
    for name in ("ix_tasks_due", *INDEXES):
        op.drop_index(name, table_name="tasks")
    op.create_index("ix_tasks_due", "tasks", ["queue", "created_at"], postgresql_where=sa.text(QUEUED))
    op.drop_constraint(op.f("ck_tasks_limits_have_sizes"), "tasks", type_="check")
    for column in ("blocked_by", "limit_sizes", "limit_keys", "turn", "priority"):
        op.drop_column("tasks", column)
    op.drop_table("queues")
    op.execute("DROP SEQUENCE turns")


def _named(columns: list[str]) -> list[Any]:
    return [sa.text(column) if " " in column else column for column in columns]
