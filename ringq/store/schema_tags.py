"""Store: the tables of tags and labels, as text; part of `schema`."""

from __future__ import annotations

from typing import Final

# The tags of a task, for life. Tasks without any have no row, here and in `label`.
TAG: Final = """
CREATE TABLE tag (
    task_id INTEGER NOT NULL REFERENCES task (id),
    key TEXT NOT NULL CHECK (key <> ''),
    value TEXT NOT NULL,
    PRIMARY KEY (task_id, key)
) STRICT, WITHOUT ROWID
"""

# Serves "tasks with this tag, in the order of their ids", "which keys are there" and "which values of a key".
TAG_VALUE: Final = "CREATE INDEX tag_value ON tag (key, value, task_id)"

# What people call a task, if that is not its kind.
LABEL: Final = """
CREATE TABLE label (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    text TEXT NOT NULL CHECK (text <> '')
) STRICT
"""

TAG_TABLES: Final = (TAG, TAG_VALUE, LABEL)
