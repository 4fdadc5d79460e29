"""Store: the table of rate limits, as text; part of `schema`."""

from __future__ import annotations

from typing import Final

# How often something may happen, by scope, and the level of its bucket at an instant. `declared`: by the code alone.
RATE: Final = """
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
"""

RATE_TABLES: Final = (RATE,)
