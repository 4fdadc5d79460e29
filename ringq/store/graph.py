"""Store: tasks that wait for others - for what they depend on, for their children, for somebody outside."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from ringq.model import Reason
from ringq.places import FINALIZER, Place, place_of
from ringq.store.rates import RateTables
from ringq.store.schema_graph import FINALIZING
from ringq.store.session import Rows

# `task_id` waits for `upstream` from now on. What is named twice is one.
INSERT_EDGE: Final = """
INSERT INTO edge (upstream, task_id, role, place, is_open) VALUES (?, ?, ?, ?, 1)
ON CONFLICT (upstream, task_id) DO NOTHING
"""

# The same for somebody that has ended and is only to be remembered.
INSERT_CLOSED_EDGE: Final = """
INSERT INTO edge (upstream, task_id, role, place, is_open) VALUES (?, ?, ?, ?, 0)
ON CONFLICT (upstream, task_id) DO NOTHING
"""

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

# They wait for these no longer.
CLOSE_EDGE: Final = "UPDATE edge SET is_open = 0 WHERE upstream = ? AND task_id = ?"

# What has ended waits for nothing.
CLOSE_EDGES_OF: Final = """
UPDATE edge SET is_open = 0
WHERE (upstream, task_id) IN (
    SELECT edge.upstream, edge.task_id FROM json_each(?) AS ended
    CROSS JOIN edge ON edge.is_open = 1 AND edge.task_id = ended.value)
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
SELECT upstream FROM edge WHERE is_open IN (0, 1) AND task_id = ?1 AND (role = 3) = ?2 ORDER BY place, upstream
"""

# Another task takes the place of this one, for all that wait for it.
INSERT_MOVED: Final = """
INSERT INTO edge (upstream, task_id, role, place, is_open)
SELECT ?2, task_id, role, place, 1 FROM edge WHERE upstream = ?1 AND +is_open = 1
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

# Whether tasks of this database belong together at all.
SELECT_HAS_GRAPH: Final = """
SELECT EXISTS (SELECT 1 FROM edge) OR EXISTS (SELECT 1 FROM waiting) OR EXISTS (SELECT 1 FROM callback)
"""

# The handler has returned, the task goes on.
INSERT_WAITING: Final = """
INSERT INTO waiting (task_id, phase, lease, finalizes, fail_fast, since_us) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET
    phase = excluded.phase, lease = excluded.lease, finalizes = excluded.finalizes, fail_fast = excluded.fail_fast,
    since_us = excluded.since_us
"""
SELECT_WAITING_ROW: Final = """
SELECT task_id, phase, lease, finalizes, fail_fast, since_us FROM waiting WHERE task_id = ?
"""
SELECT_WAITING_ROWS: Final = """
SELECT waiting.task_id, phase, lease, finalizes, fail_fast, since_us FROM json_each(?) AS wanted
CROSS JOIN waiting ON waiting.task_id = wanted.value
"""
SELECT_PHASES: Final = "SELECT task_id, phase FROM waiting"
UPDATE_PHASE: Final = "UPDATE waiting SET phase = ? WHERE task_id = ?"
DELETE_WAITING: Final = "DELETE FROM waiting WHERE task_id IN (SELECT value FROM json_each(?))"

# From when on tasks may run.
SELECT_RUN_TIMES: Final = """
SELECT task.id, task.run_at_us FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
"""

# An attempt that has ended, and not its task.
SELECT_ATTEMPT: Final = "SELECT ended_us - duration_us, worker FROM attempt WHERE task_id = ? AND lease = ?"

# What such a handler has returned.
INSERT_MEMO: Final = """
INSERT INTO memo (task_id, text) VALUES (?, ?) ON CONFLICT (task_id) DO UPDATE SET text = excluded.text
"""
SELECT_MEMO: Final = "SELECT text FROM memo WHERE task_id = ?"


class WaitingRow(NamedTuple):
    """A task whose handler has returned, and that has not ended."""

    task_id: int
    phase: int
    lease: int
    finalizes: int
    fail_fast: int
    since_us: int


class GraphTables(RateTables):
    """Statements about tasks that wait for others. Those that write belong into `transaction()`.

    Attributes: `has_graph`, whether tasks of this database belong together at all; `finalizing`, the ids of those that
    may be finalized, also of the transaction under way.
    """

    has_graph = False
    finalizing: set[int]

    # -- edges --------------------------------------------------------------------------------

    def upstream_states(self, task_ids: Sequence[int]) -> dict[int, tuple[bool, int | None]]:
        """task id -> (whether there is such a task, the code of its terminal status or None)."""
        rows = self._read(SELECT_UPSTREAM, (json.dumps(list(task_ids)),))
        return {wanted: (found is not None, status) for wanted, found, status in rows}

    def insert_edges(self, rows: Rows, closed: Rows = ()) -> None:
        """Have tasks wait for others, given as (upstream, task_id, role, place). `closed`: that have ended."""
        self._write(INSERT_EDGE, rows)
        self._write(INSERT_CLOSED_EDGE, closed)
        self._note_graph()

    def open_edges(
        self, ended: Sequence[int], limit: int, after: tuple[int, int] = (0, 0)
    ) -> list[tuple[int, int, int]]:
        """(upstream, task_id, role) of those that wait for these tasks, in order, the first behind `after`."""
        return self._read(SELECT_OPEN, (json.dumps(sorted(ended)), limit, *after))

    def close_edges(self, rows: Iterable[tuple[int, int]]) -> None:
        """These wait no longer, given as (upstream, task_id)."""
        self._write(CLOSE_EDGE, list(rows))

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

    def children_of(self, task_id: int) -> list[int]:
        """Its children, in the order in which they were spawned."""
        return [row[0] for row in self._read(SELECT_OF, (task_id, 1))]

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

    # -- waiting ------------------------------------------------------------------------------

    def insert_waiting(self, row: WaitingRow, memo: str | None) -> None:
        """The handler has returned `memo`, the task goes on. One that has waited before waits anew."""
        self._write(INSERT_WAITING, [row])
        if memo is not None:
            self._write(INSERT_MEMO, [(row.task_id, memo)])
        self._note_phase(row.task_id, row.phase)
        self._note_graph()

    def waiting_row(self, task_id: int) -> WaitingRow | None:
        """What is known of it, if it waits, or may be finalized."""
        row = self._read_one(SELECT_WAITING_ROW, (task_id,))
        return None if row is None else WaitingRow._make(row)

    def waiting_rows(self, task_ids: Collection[int]) -> list[WaitingRow]:
        """The same of several."""
        return list(map(WaitingRow._make, self._read(SELECT_WAITING_ROWS, (json.dumps(list(task_ids)),))))

    def set_phase(self, task_id: int, phase: int) -> None:
        """It waits for something else now."""
        self._write(UPDATE_PHASE, [(phase, task_id)])
        self._note_phase(task_id, phase)

    def delete_waiting(self, task_ids: Collection[int]) -> None:
        """These have ended, or begin anew."""
        self._execute(DELETE_WAITING, (json.dumps(list(task_ids)),))
        if self.finalizing.intersection(task_ids):
            self._reload.add(self._load_graph)
            self.finalizing.difference_update(task_ids)

    def run_times(self, task_ids: Sequence[int]) -> list[tuple[int, int | None]]:
        """(task id, the instant before which it does not run) of these tasks."""
        return self._read(SELECT_RUN_TIMES, (json.dumps(list(task_ids)),))

    def attempt_of(self, task_id: int, lease: int) -> tuple[int, int | None]:
        """(when it began, its worker) of an attempt that is on record."""
        row: tuple[int, int | None] = self._read_one(SELECT_ATTEMPT, (task_id, lease))
        return row

    def memo(self, task_id: int) -> str | None:
        """What its handler has returned, as JSON text."""
        row = self._read_one(SELECT_MEMO, (task_id,))
        return None if row is None else str(row[0])

    def limits_of(self, task_id: int, spec: int) -> list[tuple[int, Reason]]:
        """As for all tasks; one whose handler has returned is bound by the time for all of it alone."""
        limits = super().limits_of(task_id, spec)
        if limits and self.has_graph and self.waiting_row(task_id) is not None:
            return [limit for limit in limits if limit[1] is Reason.TOTAL_TIMEOUT]
        return limits

    # -- order --------------------------------------------------------------------------------

    def place_of(self, task_id: int, spec: int) -> Place:
        """Where the task stands, whose spec has this number, once it may run."""
        place = place_of(self.specs()[spec])
        return place._replace(priority=FINALIZER) if task_id in self.finalizing else place

    def active_ids(self, chunk: int = 10_000) -> Iterator[list[tuple[int, int]]]:
        """As for all tasks, without those that wait for others, or may be finalized."""
        held = {row[0] for row in self._read(SELECT_BLOCKED)} if self.has_graph else set()
        held.update(row[0] for row in self._read(SELECT_PHASES))
        for rows in super().active_ids(chunk):
            yield [row for row in rows if row[0] not in held] if held else rows

    def _note_graph(self) -> None:
        if not self.has_graph:
            self.has_graph = True
            self._reload.add(self._load_graph)

    def _note_phase(self, task_id: int, phase: int) -> None:
        self._reload.add(self._load_graph)
        (self.finalizing.add if phase == FINALIZING else self.finalizing.discard)(task_id)

    def _load_graph(self) -> None:
        self.has_graph = bool(self._read_one(SELECT_HAS_GRAPH)[0])
        phases: list[tuple[int, Any]] = self._read(SELECT_PHASES)
        self.finalizing = {task_id for task_id, phase in phases if phase == FINALIZING}
