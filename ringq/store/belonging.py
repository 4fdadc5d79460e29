"""Store: what may be asked about tasks that belong together; part of `questions`."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from ringq.store.held import IS_BLOCKED, IS_WAITING, Held, held
from ringq.store.pauses import SELECT_PAUSED_SPECS
from ringq.store.task_rows import TASK_JOINS, TASK_ROW

# What a task depends on, in the order in which it was named, and its children, in that of their ids.
SELECT_DEPENDENCIES: Final = """
SELECT upstream FROM edge WHERE is_open IN (0, 1) AND task_id = ? AND role < 3 ORDER BY place, upstream
"""
SELECT_CHILDREN: Final = """
SELECT upstream FROM edge WHERE is_open IN (0, 1) AND task_id = ? AND role = 3 AND upstream > ?
ORDER BY upstream LIMIT ?
"""
COUNT_CHILDREN: Final = "SELECT COUNT(*) FROM edge WHERE is_open IN (0, 1) AND task_id = ? AND role = 3"

# What depends on a task; and whose child it is.
SELECT_DEPENDENTS: Final = """
SELECT task_id FROM edge WHERE upstream = ? AND role < 3 AND task_id > ? ORDER BY task_id LIMIT ?
"""
SELECT_PARENT: Final = "SELECT task_id FROM edge WHERE upstream = ? AND role = 3"

# What a handler has returned whose children lived.
SELECT_MEMO: Final = "SELECT text FROM memo WHERE task_id = ?"

# Tasks by their ids, in that order.
SELECT_ROWS_OF: Final = (
    TASK_ROW + "FROM json_each(?) AS leading CROSS JOIN task ON task.id = leading.value" + TASK_JOINS
)

# How many wait for what they depend on, and for their children or somebody outside: open edges have an index.
COUNT_BLOCKED: Final = "SELECT COUNT(DISTINCT task_id) FROM edge WHERE is_open = 1 AND role < 3"
COUNT_WAITING: Final = "SELECT COUNT(*) FROM waiting WHERE phase <> 1"

# The edges of some tasks: of those that wait for them, and of those they wait for.
SELECT_EDGES_DOWN: Final = """
SELECT edge.upstream, edge.task_id, edge.role, edge.place, edge.is_open FROM json_each(?1) AS known
CROSS JOIN edge ON edge.upstream = known.value LIMIT ?2
"""
SELECT_EDGES_UP: Final = """
SELECT edge.upstream, edge.task_id, edge.role, edge.place, edge.is_open FROM json_each(?1) AS known
CROSS JOIN edge ON edge.is_open IN (0, 1) AND edge.task_id = known.value LIMIT ?2
"""

# What is shown of each task of a graph: kind, label, the code of its status.
SELECT_NODES: Final = f"""
SELECT task.id, kind.name, (SELECT text FROM label WHERE label.task_id = task.id),
    COALESCE(receipt.status, CASE
        WHEN {IS_WAITING} THEN 3 WHEN lease.task_id IS NOT NULL THEN 1 WHEN {IS_BLOCKED} THEN 4
        WHEN task.spec IN ({SELECT_PAUSED_SPECS}) THEN 2 WHEN task.id IN (SELECT task_id FROM preempted) THEN 2
        ELSE 0 END)
FROM json_each(?) AS known CROSS JOIN task ON task.id = known.value {TASK_JOINS}
"""

Row = tuple[Any, ...]


class Belonging:
    """Questions about tasks that belong together, on the snapshot of `Questions`."""

    def __init__(self, rows: Callable[..., list[Row]]) -> None:
        """`rows`: those of a statement with its parameters."""
        self._rows = rows

    def rows_of(self, task_ids: Iterable[int]) -> list[Row]:
        """These tasks in the columns of TASK_ROW, in this order."""
        return self._rows(SELECT_ROWS_OF, json.dumps(list(task_ids)))

    def dependencies(self, task_id: int) -> list[int]:
        """What it depends on, as it was named."""
        return self._ids(SELECT_DEPENDENCIES, task_id)

    def dependents(self, task_id: int, after: int, limit: int) -> list[int]:
        """What depends on it: those behind `after`, by id."""
        return self._ids(SELECT_DEPENDENTS, task_id, after, limit)

    def children(self, task_id: int, after: int, limit: int) -> list[int]:
        """Its children: those behind `after`, by id."""
        return self._ids(SELECT_CHILDREN, task_id, after, limit)

    def child_count(self, task_id: int) -> int:
        """How many children it was given."""
        return int(self._rows(COUNT_CHILDREN, task_id)[0][0])

    def parent(self, task_id: int) -> int | None:
        """Whose child it is."""
        return next(iter(self._ids(SELECT_PARENT, task_id)), None)

    def memo(self, task_id: int) -> str | None:
        """What its handler has returned, as JSON text, if it went on after that."""
        rows = self._rows(SELECT_MEMO, task_id)
        return str(rows[0][0]) if rows else None

    def counts(self) -> tuple[int, int]:
        """How many tasks are blocked, and how many wait for children or somebody outside."""
        return int(self._rows(COUNT_BLOCKED)[0][0]), int(self._rows(COUNT_WAITING)[0][0])

    def waits_for(self, task_id: int, limit: int) -> Held:
        """For what it waits, at most so many of each sort."""
        return held(lambda sql, parameters: self._rows(sql, *parameters), task_id, limit)

    def edges(self, task_ids: Iterable[int], limit: int) -> list[Row]:
        """(upstream, task_id, role, place, is_open) around these tasks: at most so many in each direction."""
        known = json.dumps(list(task_ids))
        return self._rows(SELECT_EDGES_UP, known, limit) + self._rows(SELECT_EDGES_DOWN, known, limit)

    def nodes(self, task_ids: Iterable[int]) -> list[Row]:
        """(id, kind, label or None, code of the status) of these tasks, in this order."""
        return self._rows(SELECT_NODES, json.dumps(list(task_ids)))

    def _ids(self, sql: str, *parameters: object) -> list[int]:
        return [int(row[0]) for row in self._rows(sql, *parameters)]
