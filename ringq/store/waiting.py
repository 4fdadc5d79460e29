"""Store: tasks whose handlers have returned, and that have not ended - their children have not, or somebody outside."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from ringq.model import Reason
from ringq.places import FINALIZER, Place, place_of
from ringq.store.rates import RateTables
from ringq.store.schema_graph import FINALIZING

# Whether tasks of this database wait for others at all.
SELECT_HAS_GRAPH: Final = """
SELECT EXISTS (SELECT 1 FROM edge) OR EXISTS (SELECT 1 FROM waiting) OR EXISTS (SELECT 1 FROM callback)
"""

# Whether some have children, or return before they end. Asked at a start: without any it is a walk over open edges.
SELECT_HAS_FAMILIES: Final = """
SELECT EXISTS (SELECT 1 FROM waiting) OR EXISTS (SELECT 1 FROM callback)
    OR EXISTS (SELECT 1 FROM edge WHERE is_open = 1 AND role = 3)
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

# The attempt whose handler has returned.
SELECT_RETURNED: Final = """
SELECT kind, attempt, duration_us, worker, cpu_us, rss_kib FROM attempt WHERE task_id = ? AND lease = ?
"""

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


class ReturnedRow(NamedTuple):
    """An attempt that has ended well, and whose task goes on."""

    kind: int
    attempt: int
    duration_us: int
    worker: int | None
    cpu_us: int | None
    rss_kib: int | None


class WaitingTables(RateTables):
    """Statements about tasks whose handlers have returned. Those that write belong into `transaction()`.

    Attributes: `has_graph`, whether tasks of this database wait for others at all; `has_families`, whether some may
    have children, or return before they end (not to ask that of chains saves a fifth of what a link costs);
    `finalizing`, the ids of those that may be finalized, also of the transaction under way.
    """

    has_graph = has_families = False
    finalizing: set[int]

    def insert_waiting(self, row: WaitingRow, memo: str | None) -> None:
        """The handler has returned `memo`, the task goes on. One that has waited before waits anew."""
        self._write(INSERT_WAITING, [row])
        if memo is not None:
            self._write(INSERT_MEMO, [(row.task_id, memo)])
        self._note_phase(row.task_id, row.phase)
        self._note_graph(has_families=True)

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

    def returned_attempt(self, task_id: int, lease: int) -> ReturnedRow:
        """The attempt with which the handler has returned."""
        return ReturnedRow._make(self._read_one(SELECT_RETURNED, (task_id, lease)))

    def memo(self, task_id: int) -> str | None:
        """What its handler has returned, as JSON text."""
        row = self._read_one(SELECT_MEMO, (task_id,))
        return None if row is None else str(row[0])

    def limits_of(self, task_id: int, spec: int) -> list[tuple[int, Reason]]:
        """As for all tasks; one whose handler has returned is bound by the time for all of it alone."""
        limits = super().limits_of(task_id, spec)
        if limits and self.has_families and self.waiting_row(task_id) is not None:
            return [limit for limit in limits if limit[1] is Reason.TOTAL_TIMEOUT]
        return limits

    def place_of(self, task_id: int, spec: int) -> Place:
        """Where the task stands, whose spec has this number, once it may run."""
        place = place_of(self.specs()[spec])
        return place._replace(priority=FINALIZER) if task_id in self.finalizing else place

    def active_ids(self, chunk: int = 10_000) -> Iterator[list[tuple[int, int]]]:
        """As for all tasks, without those whose handlers have returned."""
        held = {row[0] for row in self._read(SELECT_PHASES)}
        for rows in super().active_ids(chunk):
            yield [row for row in rows if row[0] not in held] if held else rows

    def _note_graph(self, *, has_families: bool) -> None:
        if not self.has_graph or (has_families and not self.has_families):
            self.has_graph = True
            self.has_families |= has_families
            self._reload.add(self._load_graph)

    def _note_phase(self, task_id: int, phase: int) -> None:
        self._reload.add(self._load_graph)
        (self.finalizing.add if phase == FINALIZING else self.finalizing.discard)(task_id)

    def _load_graph(self) -> None:
        self.has_graph = bool(self._read_one(SELECT_HAS_GRAPH)[0])
        self.has_families = self.has_graph and bool(self._read_one(SELECT_HAS_FAMILIES)[0])
        phases: list[tuple[int, Any]] = self._read(SELECT_PHASES)
        self.finalizing = {task_id for task_id, phase in phases if phase == FINALIZING}
