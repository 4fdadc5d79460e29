"""Revision 0004: what queues and the server say of tasks for whom nobody nearer does.

ALTER TABLE would leave a text of the table that no new database has: it is made again.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    "CREATE TEMPORARY TABLE earlier_queue AS SELECT * FROM queue",
    "DROP TABLE queue",
    """
CREATE TABLE queue (
    name TEXT NOT NULL PRIMARY KEY CHECK (name <> ''),
    max_workers INTEGER CHECK (max_workers >= 0),
    paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
    retry TEXT CHECK (retry <> ''),
    cooldown TEXT CHECK (cooldown <> ''),
    throttles INTEGER NOT NULL CHECK (throttles >= 0),
    throttled_until_us INTEGER,
    retention TEXT CHECK (retention <> ''),
    dead_retention TEXT CHECK (dead_retention <> ''),
    defaults TEXT CHECK (defaults <> '')
) STRICT, WITHOUT ROWID
""",
    "INSERT INTO queue SELECT *, NULL FROM earlier_queue",
    "DROP TABLE earlier_queue",
    """
CREATE TABLE server_defaults (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    options TEXT NOT NULL
) STRICT
""",
)


def upgrade() -> None:
    """Queues of earlier releases say nothing of their tasks."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
