"""Alembic's entry point: online on the connection `taskengine.store.migrate` hands over, offline as SQL text."""

from __future__ import annotations

from alembic import context

from taskengine.store.migrate import VERSION_TABLE
from taskengine.store.tables import metadata

connection = context.config.attributes.get("connection")

if connection is None:
    context.configure(
        dialect_name="postgresql", target_metadata=metadata, version_table=VERSION_TABLE, literal_binds=True
    )
else:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        transaction_per_migration=True,
        compare_type=True,
        compare_server_default=True,
    )

with context.begin_transaction():
    context.run_migrations()
