"""Revision 0004: how often something may happen."""

from alembic import op

revision = "0004"
down_revision = "0003"

STATEMENTS = (
    """
CREATE TABLE rate (
    scope TEXT NOT NULL PRIMARY KEY CHECK (scope <> ''),
    permits REAL NOT NULL CHECK (permits > 0),
    interval_us INTEGER NOT NULL CHECK (interval_us > 0),
    burst REAL NOT NULL CHECK (burst >= 1),
    tokens REAL NOT NULL,
    stamped_us INTEGER NOT NULL,
    held_until_us INTEGER,
    declared INTEGER NOT NULL CHECK (declared IN (0, 1))
) STRICT, WITHOUT ROWID
""",
)


def upgrade() -> None:
    """One table more."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
