"""Sessions of 2025-11-25, tasks by owner and by session, and questions that one stream offers at a time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskengine.store.migrate import build_index

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column(
            "id", sa.Text(), nullable=False, comment="the random part of a session id; all else is inside the id"
        ),
        sa.Column("log_level", sa.Text(), nullable=True, comment="as set by logging/setLevel"),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="the client ended it; null while it goes on",
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, comment="its id is not valid after this"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        if_not_exists=True,
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], unique=False, if_not_exists=True)
    op.create_table(
        "letters",
        sa.Column("id", sa.Text(), nullable=False, comment="the request of ours that this answers"),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_letters")),
        if_not_exists=True,
    )
    op.create_index(op.f("ix_letters_expires_at"), "letters", ["expires_at"], unique=False, if_not_exists=True)
    op.add_column(
        "tasks",
        sa.Column("session", sa.Text(), nullable=True, comment="the 2025-11-25 session that is told of changes"),
        if_not_exists=True,
    )
    op.add_column(
        "tasks",
        sa.Column(
            "progress_token",
            sa.Text(),
            nullable=True,
            comment="of the creating call, as JSON; it holds to the end (L-PROG-08)",
        ),
        if_not_exists=True,
    )
    op.add_column(
        "tasks",
        sa.Column("dedupe", sa.Text(), nullable=True, comment="digest of a call that is joined while it runs"),
        if_not_exists=True,
    )
    op.add_column(
        "inputs",
        sa.Column(
            "offered_to",
            sa.Text(),
            nullable=True,
            comment="the one stream of 2025-11-25 that has put it to its client (A-26)",
        ),
        if_not_exists=True,
    )
    op.add_column(
        "inputs",
        sa.Column(
            "offered_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="unless that stream renews it, another may offer it then",
        ),
        if_not_exists=True,
    )
    build_index(
        "ix_tasks_dedupe",
        "tasks",
        ["owner", "dedupe"],
        unique=True,
        postgresql_where=sa.text("dedupe IS NOT NULL AND phase <> 'done'"),
    )
    build_index("ix_tasks_owner", "tasks", ["owner", "created_at", "id"])
    build_index("ix_tasks_session", "tasks", ["session"], postgresql_where=sa.text("session IS NOT NULL"))


def downgrade() -> None:
    op.drop_column("inputs", "offered_until")
    op.drop_column("inputs", "offered_to")
    op.drop_index("ix_tasks_session", table_name="tasks")
    op.drop_index("ix_tasks_owner", table_name="tasks")
    op.drop_index("ix_tasks_dedupe", table_name="tasks")
    op.drop_column("tasks", "dedupe")
    op.drop_column("tasks", "progress_token")
    op.drop_column("tasks", "session")
    op.drop_index(op.f("ix_letters_expires_at"), table_name="letters")
    op.drop_table("letters")
    op.drop_index(op.f("ix_sessions_expires_at"), table_name="sessions")
    op.drop_table("sessions")
