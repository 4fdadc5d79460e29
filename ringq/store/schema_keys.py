"""Store: the tables of keys, as text; part of `schema`."""

from __future__ import annotations

# Which active task has a key, in any active status; the key is free in the transaction of its receipt. Tasks without
# a key are in none of these tables.
ACTIVE_KEY = """
CREATE TABLE active_key (
    kind INTEGER NOT NULL REFERENCES kind (id),
    digest BLOB NOT NULL CHECK (length(digest) = 16),
    task_id INTEGER NOT NULL REFERENCES task (id),
    PRIMARY KEY (kind, digest)
) STRICT, WITHOUT ROWID
"""

# Serves "its task has ended".
ACTIVE_KEY_TASK = "CREATE UNIQUE INDEX active_key_task ON active_key (task_id)"

# The key of every task that was given one, for life: a dead letter that lives again needs it.
TASK_KEY = """
CREATE TABLE task_key (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    digest BLOB NOT NULL CHECK (length(digest) = 16),
    key TEXT NOT NULL CHECK (key <> '')
) STRICT
"""

# A second run that was asked for while the first one ran: `task_id` starts when `behind` has its receipt, and has the
# key from then on.
FOLLOWER = """
CREATE TABLE follower (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    behind INTEGER NOT NULL UNIQUE REFERENCES task (id)
) STRICT
"""

# What became of the tasks of a batch, if not all were inserted: a repeated batch is told the same.
OUTCOME = """
CREATE TABLE outcome (
    submission BLOB NOT NULL PRIMARY KEY REFERENCES submission (id),
    told TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
