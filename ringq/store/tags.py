"""Store: tags and labels - written with their tasks, handed on, and looked up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from ringq.store.session import Rows, Session, statements

# A tag; many go to a statement.
INTO_TAG: Final = "INSERT INTO tag (task_id, key, value) VALUES "

# The name of a task.
INSERT_LABEL: Final = "INSERT INTO label (task_id, text) VALUES (?, ?)"

# A task that goes on as another one keeps its tags.
COPY_TAGS: Final = "INSERT INTO tag (task_id, key, value) SELECT ?2, key, value FROM tag WHERE task_id = ?1"

# And its name.
COPY_LABEL: Final = "INSERT INTO label (task_id, text) SELECT ?2, text FROM label WHERE task_id = ?1"

# All there is of some tasks.
DELETE_TAGS: Final = (
    "DELETE FROM tag WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM label WHERE task_id IN (SELECT value FROM json_each(?))",
)

# Tasks with one tag, the lowest id first.
SELECT_TASKS_OF_TAG: Final = """
SELECT task_id FROM tag WHERE key = ?1 AND value = ?2 AND task_id > ?3 ORDER BY task_id LIMIT ?4
"""

# The tags of a task.
SELECT_TAGS: Final = "SELECT key, value FROM tag WHERE task_id = ?"


@cache
def into_tag(count: int) -> str:
    """INTO_TAG for so many tags."""
    return INTO_TAG + ", ".join(["(?, ?, ?)"] * count)


class TagTables(Session):
    """Statements about tags and labels. Those that write belong into `transaction()`."""

    def insert_tags(self, rows: Rows) -> None:
        """Give new tasks their tags, as (task_id, key, value)."""
        for start, count in statements(len(rows)):
            self._execute(into_tag(count), [value for row in rows[start : start + count] for value in row])

    def insert_labels(self, rows: Rows) -> None:
        """Give new tasks their names, as (task_id, label)."""
        self._write(INSERT_LABEL, rows)

    def copy_tags(self, task_id: int, heirs: Sequence[int]) -> None:
        """These new tasks have the tags and the label of a task in whose place they are."""
        rows = [(task_id, heir) for heir in heirs]
        self._write(COPY_TAGS, rows)
        self._write(COPY_LABEL, rows)

    def tags_of(self, task_id: int) -> dict[str, str]:
        """The tags of a task."""
        return dict(self._read(SELECT_TAGS, (task_id,)))

    def tasks_of_tag(self, key: str, value: str, after: int, limit: int) -> list[int]:
        """Tasks with this tag, from the first one behind `after` on, whether or not they have ended."""
        return [task_id for (task_id,) in self._read(SELECT_TASKS_OF_TAG, (key, value, after, limit))]
