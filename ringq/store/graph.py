"""Store: which tasks wait for which others, and did."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Final

from ringq.model import CHILD
from ringq.store.held import Held, held
from ringq.store.session import Rows, statements
from ringq.store.waiting import WaitingTables

# `task_id` waits for `upstream` from now on, or did: {}. What is named twice is one.
INTO_EDGE: Final = "INSERT INTO edge (upstream, task_id, role, place, is_open) VALUES "
EDGE_ROW: Final = "(?, ?, ?, ?, {})"
ONCE: Final = " ON CONFLICT (upstream, task_id) DO NOTHING"

# Of tasks that are to be depended on: whether there are any, and how they have ended.
SELECT_UPSTREAM: Final = """
SELECT wanted.value, task.id, receipt.status FROM json_each(?) AS wanted
LEFT JOIN task ON task.id = wanted.value
LEFT JOIN receipt ON receipt.task_id = task.id
"""

# Some of those that wait for tasks which have ended, from behind one on; those are given in order. By the primary key:
# the plus keeps SQLite from walking along all open edges, as it would rather do.
SELECT_OPEN: Final = """
SELECT edge.upstream, edge.task_id, edge.role FROM json_each(?1) AS ended
CROSS JOIN edge ON edge.upstream = ended.value AND edge.task_id > CASE ended.value WHEN ?3 THEN ?4 ELSE 0 END
WHERE ended.value >= ?3 AND +edge.is_open = 1
LIMIT ?2
"""

# Some that wait for one task wait for it no longer.
CLOSE_EDGES: Final = """
UPDATE edge SET is_open = 0 WHERE upstream = ? AND task_id BETWEEN ? AND ? AND +is_open = 1
"""

# A parent does not wait for a child any more.
CLOSE_EDGE: Final = "UPDATE edge SET is_open = 0 WHERE upstream = ? AND task_id = ?"

# What has ended waits for nothing.
CLOSE_EDGES_OF: Final = """
UPDATE edge SET is_open = 0 WHERE is_open = 1 AND task_id IN (SELECT value FROM json_each(?))
"""

# Who still waits.
SELECT_STILL: Final = """
SELECT wanted.value FROM json_each(?) AS wanted
WHERE EXISTS (SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = wanted.value)
"""

# The same, without parents.
SELECT_STILL_BLOCKED: Final = """
SELECT wanted.value FROM json_each(?) AS wanted
WHERE EXISTS (SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = wanted.value AND edge.role < 3)
"""

# The children of tasks, that have not ended.
SELECT_ACTIVE_CHILDREN: Final = """
SELECT edge.upstream, edge.task_id FROM json_each(?1) AS parents
CROSS JOIN edge ON edge.is_open = 1 AND edge.task_id = parents.value AND edge.role = 3
LIMIT ?2
"""

# Who has such children.
SELECT_PARENTS: Final = """
SELECT wanted.value FROM json_each(?) AS wanted
WHERE EXISTS (SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = wanted.value AND edge.role = 3)
"""

# The children of a task that have ended, and have not completed.
SELECT_FAILED_CHILDREN: Final = """
SELECT edge.upstream, receipt.status FROM edge CROSS JOIN receipt ON receipt.task_id = edge.upstream
WHERE edge.is_open = 0 AND edge.task_id = ? AND edge.role = 3 AND receipt.status <> 10
ORDER BY edge.place, edge.upstream LIMIT 1
"""

# The child of whom a task is.
SELECT_PARENT: Final = "SELECT task_id FROM edge WHERE upstream = ? AND role = 3"

# How many children a task was given.
COUNT_CHILDREN: Final = "SELECT COUNT(*) FROM edge WHERE is_open IN (0, 1) AND task_id = ? AND role = 3"

# What a task depends on, or whom it has as children, in order.
SELECT_OF: Final = """
SELECT upstream, place FROM edge WHERE is_open IN (0, 1) AND task_id = ?1 AND (role = 3) = ?2 ORDER BY place, upstream
"""

# Another task takes the place of this one, for all that wait for it.
INSERT_MOVED: Final = """
INSERT INTO edge (upstream, task_id, role, place, is_open)
SELECT ?2, task_id, role, place, 1 FROM edge WHERE upstream = ?1 AND +is_open = 1 AND task_id <> ?2
ON CONFLICT (upstream, task_id) DO NOTHING
"""
DELETE_MOVED: Final = "DELETE FROM edge WHERE upstream = ? AND +is_open = 1"

# Everything that waits for this one, at any depth, also for its key.
SELECT_BELOW: Final = """
WITH RECURSIVE below (id) AS (
    SELECT ?1
    UNION SELECT edge.task_id FROM below CROSS JOIN edge ON edge.upstream = below.id AND +edge.is_open = 1
    UNION SELECT follower.task_id FROM below CROSS JOIN follower ON follower.behind = below.id)
SELECT id FROM below
"""

# All that wait for what they depend on: a start leaves them out.
SELECT_BLOCKED: Final = "SELECT DISTINCT task_id FROM edge WHERE is_open = 1 AND role < 3"

# The first of those that wait for something: what lies above the mark must not be passed.
SELECT_FIRST_WAITING: Final = """
SELECT MIN(id) FROM (
    SELECT (SELECT task_id FROM edge WHERE is_open = 1 ORDER BY task_id LIMIT 1) AS id
    UNION ALL SELECT (SELECT task_id FROM waiting ORDER BY task_id LIMIT 1))
"""

# Of tasks those that depend on nothing any more, and from when on they may run.
SELECT_FREE: Final = """
SELECT task.id, task.run_at_us FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
WHERE NOT EXISTS (SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = task.id AND edge.role < 3)
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
"""

# Those of them that wait for the task which has their key.
SELECT_BEHIND: Final = "SELECT task_id FROM follower WHERE task_id IN (SELECT value FROM json_each(?))"


@cache
def into_edge(is_open: int, count: int) -> str:
    """The statement for so many edges."""
    return INTO_EDGE + ", ".join([EDGE_ROW.format(is_open)] * count) + ONCE


class GraphTables(WaitingTables):
    """Statements about tasks that wait for others. Those that write belong into `transaction()`."""

    def upstream_states(self, task_ids: Sequence[int]) -> dict[int, tuple[bool, int | None]]:
        """task id -> (whether there is such a task, the code of its terminal status or None)."""
        rows = self._read(SELECT_UPSTREAM, (json.dumps(list(task_ids)),))
        return {wanted: (found is not None, status) for wanted, found, status in rows}

    def insert_edges(self, rows: Rows, closed: Rows = ()) -> None:
        """Have tasks wait for others, given as (upstream, task_id, role, place). `closed`: that have ended."""
        for is_open, own in ((1, rows), (0, closed)):
            for start, count in statements(len(own)):
                self._execute(into_edge(is_open, count), [value for row in own[start : start + count] for value in row])
        self._note_graph(has_families=bool(rows) and rows[0][2] == CHILD)

    def open_edges(
        self, ended: Sequence[int], limit: int, after: tuple[int, int] = (0, 0)
    ) -> list[tuple[int, int, int]]:
        """(upstream, task_id, role) of those that wait for these tasks, in order, the first behind `after`."""
        return self._read(SELECT_OPEN, (json.dumps(sorted(ended)), limit, *after))

    def close_edges(self, rows: Sequence[tuple[int, int]]) -> None:
        """These wait no longer, as (upstream, task_id), in order, with none left out between two of an upstream."""
        spans: dict[int, list[int]] = {}
        for upstream, task_id in rows:
            spans.setdefault(upstream, [upstream, task_id, task_id])[2] = task_id
        self._write(CLOSE_EDGES, list(map(tuple, spans.values())))

    def close_edges_to(self, children: Rows) -> None:
        """Parents wait no longer for these children, given as (child, parent)."""
        self._write(CLOSE_EDGE, children)

    def close_edges_of(self, ended: Sequence[int]) -> None:
        """These tasks have ended: they wait for nothing any more."""
        self._write(CLOSE_EDGES_OF, [(json.dumps(list(ended)),)])

    def still_waiting(self, task_ids: Collection[int]) -> set[int]:
        """Those of these tasks that wait for another one."""
        return {row[0] for row in self._read(SELECT_STILL, (json.dumps(list(task_ids)),))}

    def still_blocked(self, task_ids: Collection[int]) -> set[int]:
        """Those of these tasks that depend on one that has not ended."""
        return {row[0] for row in self._read(SELECT_STILL_BLOCKED, (json.dumps(list(task_ids)),))}

    def active_children(self, parents: Sequence[int], limit: int) -> list[tuple[int, int]]:
        """(child, parent) of the first of the children of these tasks that have not ended."""
        return self._read(SELECT_ACTIVE_CHILDREN, (json.dumps(list(parents)), limit))

    def parents_among(self, task_ids: Sequence[int]) -> set[int]:
        """Those of these tasks that have children which have not ended."""
        return {row[0] for row in self._read(SELECT_PARENTS, (json.dumps(list(task_ids)),))}

    def failed_child(self, parent: int) -> tuple[int, int] | None:
        """(task id, code of its status) of the first child that has ended without completing."""
        row: tuple[int, int] | None = self._read_one(SELECT_FAILED_CHILDREN, (parent,))
        return row

    def parent_of(self, task_id: int) -> int | None:
        """Whose child it is."""
        row = self._read_one(SELECT_PARENT, (task_id,))
        return None if row is None else int(row[0])

    def count_children(self, parent: int) -> int:
        """How many it was given, ended ones among them."""
        return int(self._read_one(COUNT_CHILDREN, (parent,))[0])

    def dependencies_of(self, task_id: int) -> list[int]:
        """What it depends on, in the order in which that was named."""
        return [row[0] for row in self._read(SELECT_OF, (task_id, 0))]

    def dependency_places(self, task_id: int) -> list[int]:
        """The number under which it named each of these."""
        return [row[1] for row in self._read(SELECT_OF, (task_id, 0))]

    def children_of(self, task_id: int) -> list[int]:
        """Its children, in the order in which they were spawned."""
        return [row[0] for row in self._read(SELECT_OF, (task_id, 1))]

    def waits_for(self, task_id: int, limit: int) -> Held:
        """For what it waits, at most so many of each sort."""
        return held(self._read, task_id, limit)

    def move_edges(self, upstream: int, heirs: Sequence[int]) -> None:
        """Other tasks take the place of this one: who waited for it waits for all of them."""
        self._write(INSERT_MOVED, [(upstream, heir) for heir in heirs])
        self._write(DELETE_MOVED, [(upstream,)])

    def below(self, task_id: int) -> set[int]:
        """This task, and all that wait for it, at any depth."""
        return {row[0] for row in self._read(SELECT_BELOW, (task_id,))}

    def first_waiting(self) -> int | None:
        """The smallest id of those that wait for another task, or somebody outside."""
        row = self._read_one(SELECT_FIRST_WAITING)
        return None if row[0] is None else int(row[0])

    def free_of(self, task_ids: Collection[int]) -> list[tuple[int, int | None]]:
        """(task id, the instant before which it does not run) of those of these tasks that depend on nothing active."""
        return self._read(SELECT_FREE, (json.dumps(sorted(task_ids)),))

    def behind(self, task_ids: Collection[int]) -> set[int]:
        """Those of these tasks that wait for the one which has their key."""
        return {row[0] for row in self._read(SELECT_BEHIND, (json.dumps(list(task_ids)),))}

    def active_ids(self, chunk: int = 10_000) -> Iterator[list[tuple[int, int]]]:
        """As for all tasks, without those that wait for what they depend on."""
        held = {row[0] for row in self._read(SELECT_BLOCKED)} if self.has_graph else set()
        for rows in super().active_ids(chunk):
            yield [row for row in rows if row[0] not in held] if held else rows
