"""How the tables are stored: room for updates in place, and vacuuming before much has piled up."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SETTINGS = {
    "tasks": {
        "fillfactor": 85,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_insert_scale_factor": 0.05,
        "autovacuum_analyze_scale_factor": 0.02,
    },
    "workers": {"fillfactor": 50},
}


def upgrade() -> None:
    # Each takes a lock that waits for no reader or writer; pages that are there keep the room they have.
    for table, settings in _SETTINGS.items():
        values = ", ".join(f"{name} = {value}" for name, value in settings.items())
        op.execute(f"ALTER TABLE {table} SET ({values})")


def downgrade() -> None:
    for table, settings in _SETTINGS.items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(settings)})")
