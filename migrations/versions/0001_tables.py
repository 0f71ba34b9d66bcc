"""The first tables: tasks, their inputs and logs, workers, keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False, comment="base64"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_keys")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False, comment="the route its doorbells take"),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column(
            "attempt", sa.Integer(), server_default="0", nullable=False, comment="fencing token; grows with each claim"
        ),
        sa.Column("worker_id", sa.Text(), nullable=True, comment="holder of the current attempt"),
        sa.Column(
            "crashes", sa.Integer(), server_default="0", nullable=False, comment="attempts lost with their worker"
        ),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("capabilities", sa.Text(), nullable=False, comment="what the client declared on the call"),
        sa.Column(
            "first", sa.Text(), server_default="{}", nullable=False, comment="answers to the tool's ask_first questions"
        ),
        sa.Column("nonce", sa.Text(), nullable=True, comment="single use of a requestState"),
        sa.Column("status_message", sa.Text(), nullable=True),
        sa.Column("progress", sa.Double(), nullable=True),
        sa.Column("progress_total", sa.Double(), nullable=True),
        sa.Column("progress_message", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("is_error", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True, comment="for operators; never served to clients"),
        sa.Column(
            "ran_ms", sa.BigInteger(), server_default="0", nullable=False, comment="running time of ended attempts"
        ),
        sa.Column(
            "base_ttl_ms", sa.BigInteger(), nullable=False, comment="the tool's ttl: retention grows by multiples of it"
        ),
        sa.Column(
            "ttl_ms", sa.BigInteger(), nullable=False, comment="retention from created_at, kept ahead of a live task"
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, comment="created_at + ttl_ms"),
        sa.Column("poll_interval_ms", sa.Integer(), nullable=False, comment="longest poll interval to suggest"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True, comment="start of the current attempt"),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True, comment="last doorbell; null: never"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(phase = 'done') = (ended_at IS NOT NULL)", name=op.f("ck_tasks_done_has_end")),
        sa.CheckConstraint("(phase = 'running') = (worker_id IS NOT NULL)", name=op.f("ck_tasks_only_running_is_held")),
        sa.CheckConstraint("(status = 'completed') = (result IS NOT NULL)", name=op.f("ck_tasks_completed_has_result")),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name=op.f("ck_tasks_failed_has_error")),
        sa.CheckConstraint(
            "(status, phase) IN (('working', 'queued'), ('working', 'running'), ('input_required', 'waiting'), "
            "('completed', 'done'), ('failed', 'done'), ('cancelled', 'done'))",
            name=op.f("ck_tasks_legal_state"),
        ),
        sa.CheckConstraint(
            "attempt >= 0 AND crashes >= 0 AND base_ttl_ms > 0 AND ttl_ms > 0", name=op.f("ck_tasks_counts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("nonce", name=op.f("uq_tasks_nonce")),
    )
    op.create_index(
        "ix_tasks_alive", "tasks", ["expires_at"], unique=False, postgresql_where=sa.text("phase <> 'done'")
    )
    op.create_index(
        "ix_tasks_due", "tasks", ["queue", "created_at"], unique=False, postgresql_where=sa.text("phase = 'queued'")
    )
    op.create_index(
        "ix_tasks_held", "tasks", ["worker_id"], unique=False, postgresql_where=sa.text("worker_id IS NOT NULL")
    )
    op.create_index("ix_tasks_sweep", "tasks", ["expires_at"], unique=False, postgresql_where=sa.text("phase = 'done'"))
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False, comment="JSON list"),
        sa.Column(
            "presence_key", sa.BigInteger(), nullable=True, comment="session advisory lock it holds; null: lease alone"
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "suspected_at", sa.DateTime(timezone=True), nullable=True, comment="its presence lock was first seen free"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "inputs",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="never reused within a task (M-TASK-56)"),
        sa.Column("position", sa.Integer(), nullable=False, comment="order within the attempt that asked"),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="the attempt that asked"),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=True, comment="null while the question is open"),
        sa.Column("asked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(response IS NULL) = (answered_at IS NULL)", name=op.f("ck_inputs_answered_has_time")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_inputs_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task_id", "key", name=op.f("pk_inputs")),
    )
    op.create_index("ix_inputs_open", "inputs", ["task_id"], unique=False, postgresql_where=sa.text("response IS NULL"))
    op.create_table(
        "logs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("logger", sa.Text(), nullable=True),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_logs_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_logs")),
    )
    op.create_index(op.f("ix_logs_task_id_id"), "logs", ["task_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_logs_task_id_id"), table_name="logs")
    op.drop_table("logs")
    op.drop_index("ix_inputs_open", table_name="inputs", postgresql_where=sa.text("response IS NULL"))
    op.drop_table("inputs")
    op.drop_table("workers")
    op.drop_index("ix_tasks_sweep", table_name="tasks", postgresql_where=sa.text("phase = 'done'"))
    op.drop_index("ix_tasks_held", table_name="tasks", postgresql_where=sa.text("worker_id IS NOT NULL"))
    op.drop_index("ix_tasks_due", table_name="tasks", postgresql_where=sa.text("phase = 'queued'"))
    op.drop_index("ix_tasks_alive", table_name="tasks", postgresql_where=sa.text("phase <> 'done'"))
    op.drop_table("tasks")
    op.drop_table("keys")
