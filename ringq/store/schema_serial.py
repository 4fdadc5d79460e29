"""Store: the table of serial keys, as text; part of `schema`."""

from __future__ import annotations

# The serial key of every task that was given one, for life: of those with the same one, one at a time may begin. A dead
# letter that lives again needs it. Tasks without one are not in it.
SERIAL = """
CREATE TABLE serial (
    task_id INTEGER PRIMARY KEY REFERENCES task (id),
    key TEXT NOT NULL CHECK (key <> '')
) STRICT
"""
