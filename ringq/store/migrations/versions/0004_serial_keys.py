"""Store: revision 0004 - tasks that take turns."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
CREATE TABLE serial (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    key TEXT NOT NULL CHECK (key <> '')
) STRICT
""",
)


def upgrade() -> None:
    """A new table."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
