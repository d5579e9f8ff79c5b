"""Alembic's entry: the caller's connection and transaction are used, so that a migration is all or nothing."""

from alembic import context

from core.examples.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
