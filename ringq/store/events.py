"""Store: what events tell of tasks besides what has happened, and the timeline that is kept of them."""

# ruff: noqa: S608 - statements are put together from the constants of this module; values are always bound

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from ringq.store.checkpoints import CheckpointTables

# What tasks are called and found by.
SELECT_HEADS: Final = """
SELECT task.id, task.spec,
    (SELECT text FROM label WHERE label.task_id = task.id),
    (SELECT json_group_object(tag.key, tag.value) FROM tag WHERE tag.task_id = task.id HAVING COUNT(*) > 0),
    (SELECT task_key.key FROM task_key WHERE task_key.task_id = task.id)
FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
"""

# Only what they share, whether they have ended or not.
SELECT_SPECS: Final = "SELECT task.id, task.spec FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value"

# New tasks by what they share.
SELECT_NEW: Final = "SELECT MIN(id), COUNT(*), spec FROM task WHERE id >= ? AND id < ? GROUP BY spec ORDER BY 1"

# What has happened, in order.
INSERT_EVENT: Final = "INSERT INTO event (at_us, word, task_id, body) VALUES (?, ?, ?, ?)"

# The oldest, a few at a time, as far as they were kept for long enough or are too many; never the newest: its number
# must not be given again.
DELETE_EVENTS: Final = """
DELETE FROM event WHERE id <= (
    SELECT MAX(id) FROM (SELECT id, at_us FROM event ORDER BY id LIMIT ?3)
    WHERE (at_us < ?1 OR id <= (SELECT MAX(id) FROM event) - ?2) AND id < (SELECT MAX(id) FROM event))
"""

# The timeline: behind one of its rows, or the last of it; of tasks, of words, of kinds.
EVENT_FILTER: Final = """
    AND (?3 IS NULL OR word IN (SELECT value FROM json_each(?3)))
    AND (?4 IS NULL OR body ->> '$.domain' = ?4)
    AND (?5 IS NULL OR body ->> '$.kind' IN (SELECT value FROM json_each(?5)))
    AND (?6 IS NULL OR body ->> '$.group' = ?6)
"""
OF_ALL: Final = f"""
SELECT id, body FROM event WHERE id > ?1 {EVENT_FILTER}
"""
OF_TASK: Final = f"""
SELECT id, body FROM event WHERE task_id = ?7 AND id > ?1 {EVENT_FILTER}
"""
FIRST_EVENTS: Final = "ORDER BY id LIMIT ?2"
LAST_EVENTS: Final = "ORDER BY id DESC LIMIT ?2"
SELECT_EVENTS: Final = OF_ALL + FIRST_EVENTS
SELECT_LAST_EVENTS: Final = OF_ALL + LAST_EVENTS
SELECT_EVENTS_OF_TASK: Final = OF_TASK + FIRST_EVENTS
SELECT_LAST_EVENTS_OF_TASK: Final = OF_TASK + LAST_EVENTS

Head = tuple[int, int, str | None, str | None, str | None]


# When the first of those that are kept happened.
SELECT_OLDEST: Final = "SELECT at_us FROM event ORDER BY id LIMIT 1"


class EventTables(CheckpointTables):
    """Statements about events. Those that write belong into `transaction()`."""

    def heads(self, task_ids: Sequence[int]) -> list[Head]:
        """(id, spec, label, tags as JSON, key) of those of these tasks that exist."""
        return self._read(SELECT_HEADS, (json.dumps(list(task_ids)),))

    def specs_of_any(self, task_ids: Sequence[int]) -> list[tuple[int, int]]:
        """(id, spec) of those of these tasks that exist."""
        return self._read(SELECT_SPECS, (json.dumps(list(task_ids)),))

    def new_tasks(self, first_id: int, below: int) -> list[tuple[int, int, int]]:
        """(first id, count, spec) of the tasks with these ids, for each spec."""
        return self._read(SELECT_NEW, (first_id, below))

    def insert_events(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add to the timeline, given as (at_us, word, task_id or None, JSON)."""
        self._write(INSERT_EVENT, rows)

    def oldest_event_us(self) -> int | None:
        """When the first of the timeline happened."""
        row = self._read_one(SELECT_OLDEST)
        return None if row is None else int(row[0])

    def forget_events(self, before_us: int, rows_max: int, limit: int) -> int:
        """Delete the oldest, `limit` at most: those before an instant, and those that are more than `rows_max`."""
        return self._write(DELETE_EVENTS, [(before_us, rows_max, limit)])


class Kept:
    """Questions about the timeline."""

    def __init__(self, rows: Callable[..., list[tuple[Any, ...]]], names: Callable[[str | None], str | None]) -> None:
        """`rows`: of a statement; `names`: all that a kind has, as JSON."""
        self._rows = rows
        self._names = names

    def page(
        self, after: int | None, limit: int, words: Sequence[str] | None, domain: str | None, kind: str | None,
        group: str | None, task_id: int | None,
    ) -> list[tuple[Any, ...]]:  # fmt: skip
        """(id, JSON) in order: the first behind `after`, or the last of all."""
        some = None if words is None else json.dumps(list(words))
        given = (after or 0, limit, some, domain, self._names(kind), group)
        if task_id is None:
            rows = self._rows(SELECT_LAST_EVENTS if after is None else SELECT_EVENTS, *given)
        else:
            sql = SELECT_LAST_EVENTS_OF_TASK if after is None else SELECT_EVENTS_OF_TASK
            rows = self._rows(sql, *given, task_id)
        return rows[::-1] if after is None else rows
