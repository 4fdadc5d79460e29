"""Store: the tables of pauses, limits and weights, as text."""

from __future__ import annotations

from typing import Final

# What is paused now. Of the tasks nothing is written, however many there are. A server's row has no name: there is one.
PAUSE = """
CREATE TABLE pause (
    scope TEXT NOT NULL CHECK (scope IN ('server', 'queue', 'domain', 'group')),
    name TEXT NOT NULL CHECK ((name = '') = (scope = 'server')),
    since_us INTEGER NOT NULL,
    resume_at_us INTEGER,
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID
"""

# Pauses that are over, for as long as there is a task that waited in one: that time does not make it more urgent.
PAUSE_SPAN = """
CREATE TABLE pause_span (
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    from_us INTEGER NOT NULL,
    to_us INTEGER NOT NULL CHECK (to_us > from_us),
    PRIMARY KEY (scope, name, from_us)
) STRICT, WITHOUT ROWID
"""

# What an operator has said of how many run at a time, and of how groups share: else the code decides, or flags.
CONTROL = """
CREATE TABLE control (
    scope TEXT NOT NULL CHECK (scope IN ('server', 'domain', 'group', 'kind')),
    name TEXT NOT NULL CHECK ((name = '') = (scope = 'server')),
    max_concurrency INTEGER CHECK (max_concurrency >= 0),
    weight REAL CHECK (weight > 0),
    min_slots INTEGER CHECK (min_slots >= 0),
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID
"""

CONTROL_TABLES: Final = (PAUSE, PAUSE_SPAN, CONTROL)
