"""The schema: what one table can hold is said here again, as CHECKs and partial indexes.

JSON payloads are text, not jsonb: they are served as they were stored, byte for byte, and encryption at rest can
replace them. `migrations/` creates the same tables; a test asserts that they agree.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    func,
    text,
)

from taskengine.lifecycle import STATES, Phase, Status

__all__ = [
    "audit",
    "inputs",
    "journal",
    "keys",
    "letters",
    "logs",
    "losses",
    "metadata",
    "queues",
    "sessions",
    "tasks",
    "turns",
    "workers",
]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_TIME = DateTime(timezone=True)
_QUEUED = f"phase = '{Phase.QUEUED}'"
_LEGAL_STATES = ", ".join(f"('{state.status}', '{state.phase}')" for state in STATES)

turns = Sequence("turns", metadata=metadata)
"""Above every turn that was given (see `turns.py`)."""

tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("queue", Text, nullable=False, comment="the route its doorbells take"),
    Column("status", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0", comment="fencing token; grows with each claim"),
    Column("worker_id", Text, comment="holder of the current attempt"),
    Column("crashes", Integer, nullable=False, server_default="0", comment="attempts lost with their worker"),
    Column("arguments", Text, nullable=False),
    Column("capabilities", Text, nullable=False, comment="what the client declared on the call"),
    Column("first", Text, nullable=False, server_default="{}", comment="answers to the tool's ask_first questions"),
    Column("nonce", Text, comment="single use of a requestState"),
    Column("caller", Text, comment="what tools may know of the caller, as JSON; no token"),
    Column("token", Text, comment="the caller's token, sealed; gone when the task ends"),
    Column("session", Text, comment="the 2025-11-25 session that is told of changes"),
    Column("progress_token", Text, comment="of the creating call, as JSON; it holds to the end (L-PROG-08)"),
    Column("dedupe", Text, comment="digest of a call that is joined while it runs"),
    Column("status_message", Text),
    Column("progress", Double),
    Column("progress_total", Double),
    Column("progress_message", Text),
    Column("result", Text),
    Column("is_error", Boolean, nullable=False, server_default="false"),
    Column("error", Text),
    Column("traceback", Text, comment="for operators; never served to clients"),
    Column("ran_ms", BigInteger, nullable=False, server_default="0", comment="running time of ended attempts"),
    Column("base_ttl_ms", BigInteger, nullable=False, comment="the tool's ttl: retention grows by multiples of it"),
    Column("ttl_ms", BigInteger, nullable=False, comment="retention from created_at, kept ahead of a live task"),
    Column("expires_at", _TIME, nullable=False, comment="created_at + ttl_ms"),
    Column("poll_interval_ms", Integer, nullable=False, comment="longest poll interval to suggest"),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
    Column("updated_at", _TIME, nullable=False, server_default=func.now()),
    Column("claimed_at", _TIME, comment="start of the current attempt"),
    Column("rung_at", _TIME, comment="last doorbell; null: never"),
    Column("ended_at", _TIME),
    Column("parent", Text, comment="the task that called this one; its children end with it"),
    Column("wake_at", _TIME, comment="when a waiting task goes on by itself"),
    Column("wake_open", Integer, comment="a waiting task goes on once no more of its children than this are alive"),
    Column("kept_until", _TIME, comment="until then the attempt that has just ended may still go on where it is"),
    Column("failures", Integer, nullable=False, server_default="0", comment="attempts that failed and are tried again"),
    Column("stopper", Text, comment="the worker that stops the run of a cancelled task and cleans up after it"),
    Column("stopped_at", _TIME, comment="when that was over; the status message says so"),
    Column("priority", Integer, nullable=False, server_default="0", comment="higher goes first"),
    Column(
        "turn",
        BigInteger,
        nullable=False,
        server_default=turns.next_value(),
        comment="the order among tasks of one queue and priority, fair among owners",
    ),
    Column("limit_keys", ARRAY(Text), comment="what it counts against while it runs; null: nothing"),
    Column("limit_sizes", ARRAY(Integer), comment="how many may run under each of these keys"),
    Column("blocked_by", Text, comment="the key under which too many run; it is not due until one of them ends"),
    Column("sensitive", Text, comment="JSON list of the parameters that operators must not see; * for everything"),
    Column("traceparent", Text, comment="traceparent of the call that made it"),
    Column("same", Text, comment="digest under which another call of the owner is this one"),
    CheckConstraint(f"(status, phase) IN ({_LEGAL_STATES})", name="legal_state"),
    CheckConstraint(f"(phase = '{Phase.RUNNING}') = (worker_id IS NOT NULL)", name="only_running_is_held"),
    CheckConstraint(f"(status = '{Status.COMPLETED}') = (result IS NOT NULL)", name="completed_has_result"),
    CheckConstraint(f"(status = '{Status.FAILED}') = (error IS NOT NULL)", name="failed_has_error"),
    CheckConstraint(f"(phase = '{Phase.DONE}') = (ended_at IS NOT NULL)", name="done_has_end"),
    CheckConstraint("attempt >= 0 AND crashes >= 0 AND base_ttl_ms > 0 AND ttl_ms > 0", name="counts"),
    CheckConstraint("cardinality(limit_keys) = cardinality(limit_sizes)", name="limits_have_sizes"),
    Index(
        "ix_tasks_due",
        "queue",
        text("priority DESC"),
        "turn",
        "created_at",
        postgresql_where=text(f"{_QUEUED} AND blocked_by IS NULL"),
    ),
    Index(
        "ix_tasks_blocked",
        "blocked_by",
        text("priority DESC"),
        "turn",
        "created_at",
        postgresql_where=text(f"{_QUEUED} AND blocked_by IS NOT NULL"),
    ),
    Index(
        "ix_tasks_first",
        "owner",
        "queue",
        "priority",
        "turn",
        postgresql_where=text(f"{_QUEUED} AND attempt = 0"),
    ),
    Index(
        "ix_tasks_again",
        "owner",
        "queue",
        "priority",
        "turn",
        postgresql_where=text(f"{_QUEUED} AND attempt > 0"),
    ),
    # In other words than the rest of what has not ended: only this one serves who counts it for an owner (`bounds`).
    Index("ix_tasks_unended", "owner", postgresql_where=text("ended_at IS NULL")),
    Index(
        "ix_tasks_limited",
        "tool",
        postgresql_where=text("limit_keys IS NOT NULL AND (worker_id IS NOT NULL OR kept_until IS NOT NULL)"),
    ),
    Index(
        "ix_tasks_dedupe",
        "owner",
        "dedupe",
        unique=True,
        postgresql_where=text(f"dedupe IS NOT NULL AND phase <> '{Phase.DONE}'"),
    ),
    Index("ix_tasks_held", "worker_id", postgresql_where=text("worker_id IS NOT NULL")),
    Index("ix_tasks_alive", "expires_at", postgresql_where=text(f"phase <> '{Phase.DONE}'")),
    Index("ix_tasks_owner", "owner", "created_at", "id"),
    Index("ix_tasks_sweep", "expires_at", postgresql_where=text(f"phase = '{Phase.DONE}'")),
    Index("ix_tasks_wake", "wake_at", postgresql_where=text(f"phase = '{Phase.WAITING}' AND wake_at IS NOT NULL")),
    Index("ix_tasks_parents", "id", postgresql_where=text(f"phase = '{Phase.WAITING}' AND wake_open IS NOT NULL")),
    Index("ix_tasks_children", "parent", postgresql_where=text(f"parent IS NOT NULL AND phase <> '{Phase.DONE}'")),
    Index(
        "ix_tasks_stopping",
        "tool",
        postgresql_where=text(f"status = '{Status.CANCELLED}' AND stopped_at IS NULL AND attempt > 0"),
    ),
    Index("ix_tasks_nonce", "nonce", unique=True, postgresql_where=text("nonce IS NOT NULL")),
    Index("ix_tasks_same", "owner", "same", unique=True, postgresql_where=text("same IS NOT NULL")),
    Index("ix_tasks_session", "session", postgresql_where=text("session IS NOT NULL")),
    # Progress and doorbells change no indexed column: with room on the page such an update touches no index. A table
    # of millions is vacuumed for every fiftieth row, and not for every fifth.
    postgresql_with={
        "fillfactor": 85,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_insert_scale_factor": 0.05,
        "autovacuum_analyze_scale_factor": 0.02,
    },
)

inputs = Table(
    "inputs",
    metadata,
    Column("task_id", Text, ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True, comment="never reused within a task (M-TASK-56)"),
    Column("position", Integer, nullable=False, comment="order within the attempt that asked"),
    Column("attempt", Integer, nullable=False, comment="the attempt that asked"),
    Column("method", Text, nullable=False),
    Column("params", Text, nullable=False),
    Column("response", Text, comment="null while the question is open"),
    Column("asked_at", _TIME, nullable=False, server_default=func.now()),
    Column("answered_at", _TIME),
    Column("offered_to", Text, comment="the one stream of 2025-11-25 that has put it to its client (A-26)"),
    Column("offered_until", _TIME, comment="unless that stream renews it, another may offer it then"),
    CheckConstraint("(response IS NULL) = (answered_at IS NULL)", name="answered_has_time"),
    Index("ix_inputs_open", "task_id", postgresql_where=text("response IS NULL")),
)

journal = Table(
    "journal",
    metadata,
    Column("task_id", Text, ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True, comment="its place in the run: 3, or 3.0.2 within a branch"),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("attempt", Integer, nullable=False, comment="the attempt that wrote it"),
    Column("version", Text, comment="of the tool that wrote it"),
    Column("done", Boolean, nullable=False, comment="false while a step waits for its next try"),
    Column("value", Text, comment="JSON of what it gave"),
    Column("error", Text, comment="JSON of how it failed"),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("due", _TIME, comment="end of a sleep, next try of a step, last moment for an answer"),
    Column("child_id", Text, comment="the task that a call made"),
    Column("at", _TIME, nullable=False, server_default=func.now()),
)
"""What a task's function has done and got so far: a later attempt takes it from here instead of doing it again."""

logs = Table(
    "logs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("task_id", Text, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("level", Text, nullable=False),
    Column("logger", Text),
    Column("data", Text, nullable=False),
    Column("at", _TIME, nullable=False, server_default=func.now()),
    Index(None, "task_id", "id"),
)

losses = Table(
    "losses",
    metadata,
    Column("task_id", Text, ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("worker_id", Text, comment="for operators; never served to clients"),
    Column("cause", Text, nullable=False),
    Column("signal", Text),
    Column("exit_code", Integer),
    Column("peak_bytes", BigInteger, comment="memory of the tool's process; null: not known"),
    Column("at", _TIME, nullable=False, server_default=func.now()),
)
"""How a task's attempts were lost, each that counts once."""

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("queues", Text, nullable=False, comment="JSON list"),
    Column("presence_key", BigInteger, comment="session advisory lock it holds; null: lease alone"),
    Column("started_at", _TIME, nullable=False, server_default=func.now()),
    Column("lease_until", _TIME, nullable=False),
    Column("suspected_at", _TIME, comment="its presence lock was first seen free"),
    postgresql_with={"fillfactor": 50},  # few rows, each written every second or two
)

queues = Table(
    "queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused_at", _TIME, nullable=False, server_default=func.now()),
    Column("reason", Text),
)
"""The paused queues: what is called goes into them and is not run."""

keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("secret", Text, nullable=False, comment="base64"),
    Column("created_at", _TIME, nullable=False, server_default=func.now()),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True, comment="the random part of a session id; all else is inside the id"),
    Column("log_level", Text, comment="as set by logging/setLevel"),
    Column("ended_at", _TIME, comment="the client ended it; null while it goes on"),
    Column("expires_at", _TIME, nullable=False, comment="its id is not valid after this"),
    Index(None, "expires_at"),
)

letters = Table(
    "letters",
    metadata,
    Column("id", Text, primary_key=True, comment="the request of ours that this answers"),
    Column("body", Text, nullable=False),
    Column("expires_at", _TIME, nullable=False),
    Index(None, "expires_at"),
)
"""Responses that reached another front end than the one whose call waits for them."""

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", _TIME, nullable=False, server_default=func.now()),
    Column("actor", Text, nullable=False, comment="who did it: an owner of tasks, or operator"),
    Column("action", Text, nullable=False),
    Column("task_id", Text, comment="no reference: the entry outlives its task"),
    Column("owner", Text, comment="of the task, where it is known"),
    Column("tool", Text),
    Column("times", Integer, nullable=False, server_default="1", comment="how often within the same moment"),
    Column("detail", Text),
    Index("ix_audit_time", "at", postgresql_using="brin", postgresql_with={"autosummarize": True}),
    Index("ix_audit_task_id", "task_id", postgresql_where=text("task_id IS NOT NULL")),
    Index("ix_audit_actor", "actor", "id"),
    Index("ix_audit_owner", "owner", "id", postgresql_where=text("owner <> actor")),
)
"""Who did what. A trigger lets rows be added, and deleted by the sweep of old ones; none is ever changed."""
