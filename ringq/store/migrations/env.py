"""Store: what alembic runs. The connection, its transaction and the lock belong to `ringq.store.migrate`."""

from alembic import context

connection = context.config.attributes["connection"]
# Nothing here begins or commits: all steps are one transaction, and that is the caller's.
context.configure(connection=connection, target_metadata=None, transactional_ddl=True)
context.run_migrations()
