"""Store: tasks that shall end - found by what they have in common, and noted while a worker has them."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from ringq.store.filters import fits, specs_of, tagged, wanted_tags, whole_tag
from ringq.store.held import IS_BLOCKED, IS_WAITING
from ringq.store.queues import QueueTables
from ringq.store.schema_graph import FINALIZING
from ringq.store.session import Rows
from ringq.store.tasks import DELETE_DELAYED

# What is known of some tasks: whether they have ended, wait for their time or behind another one, or were preempted.
SELECT_STATES: Final = """
SELECT task.id, task.spec, receipt.status,
    EXISTS (SELECT 1 FROM delayed WHERE delayed.run_at_us = task.run_at_us AND delayed.task_id = task.id),
    EXISTS (SELECT 1 FROM follower WHERE follower.task_id = task.id),
    EXISTS (SELECT 1 FROM preempted WHERE preempted.task_id = task.id),
    EXISTS (SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = task.id AND edge.role < 3),
    (SELECT phase FROM waiting WHERE waiting.task_id = task.id)
FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
LEFT JOIN receipt ON receipt.task_id = task.id
"""

# What else may be said of active tasks. One runs if it has for a while.
CONDITIONS: Final = f"""
    AND (?3 IS NULL OR task.spec IN (SELECT value FROM json_each(?3))) AND (?4 IS NULL OR task.submitted_us < ?4)
    AND (?6 IS NULL OR task.submitted_us >= ?6)
    AND (?8 IS NULL OR ?8 = EXISTS (SELECT 1 FROM lease WHERE lease.task_id = task.id)){tagged(7)}
    AND (?9 IS NULL OR ?9 = CASE WHEN {IS_WAITING} THEN 3 WHEN {IS_BLOCKED} THEN 4 ELSE 0 END)
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)"""
# Which of these no task has.
SELECT_MISSING: Final = """
SELECT wanted.value FROM json_each(?) AS wanted
WHERE NOT EXISTS (SELECT 1 FROM task WHERE task.id = wanted.value) LIMIT 1
"""

# Active tasks above the mark with one of these specs, in order.
SELECT_ACTIVE_OF_SPECS: Final = f"""
SELECT task.id FROM task
WHERE task.id > ?1 AND task.id <= ?2{CONDITIONS}
ORDER BY task.id LIMIT ?5
"""

# Which may be active at or below the mark, in order: a page of both indexes, merged.
SELECT_OLD: Final = """
SELECT task_id FROM straggler WHERE task_id > ?1 AND task_id <= ?2
UNION
SELECT task_id FROM delayed WHERE task_id > ?1 AND task_id <= ?2
ORDER BY task_id LIMIT ?3
"""

# The same of tasks to which an index has led.
SELECT_ACTIVE_OF_IDS: Final = f"""
SELECT task.id FROM json_each(?10) AS led CROSS JOIN task ON task.id = led.value
WHERE task.id > ?1 AND task.id <= ?2{CONDITIONS}
LIMIT ?5
"""

# A worker has the task; it shall end. A second request is the first.
INSERT_CANCEL_REQUEST: Final = """
INSERT INTO cancel_request (task_id, requested_us) VALUES (?, ?) ON CONFLICT (task_id) DO NOTHING
"""

# The task has ended.
DELETE_CANCEL_REQUEST: Final = "DELETE FROM cancel_request WHERE task_id = ?"

# What a server has left undone.
SELECT_CANCEL_REQUESTS: Final = "SELECT task_id FROM cancel_request"

SPAN: Final = 10_000  # ids looked at for one answer: 4 ms
LED: Final = 3_000  # … if an index has led to each of them, or tags of each are looked up: 5 ms


class State(NamedTuple):
    """Of a task: the number of its spec, the code of its terminal status or None, whether it is in no lane: it waits
    for its time, for another task (`is_behind`), until nothing more urgent does, or its handler has returned
    (`is_waiting`).
    """

    spec: int
    status: int | None
    is_held: bool
    is_behind: bool
    is_waiting: bool = False
    has_not_begun: bool = False  # for sure: what it depends on has not ended


class CancelTables(QueueTables):
    """Statements about tasks that shall end. Those that write belong into `transaction()`."""

    def task_states(self, task_ids: Sequence[int]) -> dict[int, State]:
        """The state of each of these tasks; without those that do not exist."""
        rows = self._read(SELECT_STATES, (json.dumps(task_ids),))
        return {row[0]: _state(*row[1:]) for row in rows}

    def missing_of(self, task_ids: Sequence[int]) -> int | None:
        """The first of these ids that no task has, or None."""
        row = self._read_one(SELECT_MISSING, (json.dumps(task_ids),))
        return None if row is None else int(row[0])

    def find_active(
        self, selection: Any, kinds: Collection[str] | None, after: int, limit: int
    ) -> tuple[list[int], int]:
        """Active tasks of these kinds that a `protocol.Selection` without ids means, from one behind `after` on.

        Returns at most `limit` of them, and behind which to go on; 0 if those are all.
        """
        specs, newest = self._specs_meant(selection, kinds), self.next_task_id - 1
        more = (selection.submitted_after_us, wanted_tags(selection), selection.is_running, selection.waits)
        wanted = (specs, selection.submitted_before_us, limit, *more)
        if selection.key is not None or whole_tag(selection) is not None:
            led, upto = self._led_to(selection, kinds, after)
            ids = self._ids(SELECT_ACTIVE_OF_IDS, after, newest, *wanted, json.dumps(led))
        elif after < self.low_water:
            led = self._ids(SELECT_OLD, after, self.low_water, LED)
            upto = led[-1] if len(led) == LED else self.low_water
            ids = self._ids(SELECT_ACTIVE_OF_IDS, after, self.low_water, *wanted, json.dumps(led))
        else:
            upto = min(newest, after + (SPAN if more[1] is None else LED))
            ids = self._ids(SELECT_ACTIVE_OF_SPECS, after, upto, *wanted)
        if len(ids) == limit:
            upto = ids[-1]
        return self._held_or_not(selection, ids), 0 if upto >= newest else upto

    def _specs_meant(self, selection: Any, kinds: Collection[str] | None) -> str | None:
        """As `specs_of`, and of what is paused, or is not, if that is asked for."""
        is_paused = selection.is_paused
        is_told_by_specs = not self.preempted if is_paused else self.pauses()
        if is_paused is None or not is_told_by_specs:
            return specs_of(selection, self.specs().items(), kinds)
        specs = ((n, spec) for n, spec in self.specs().items() if fits(selection, spec, kinds))
        held = ((n, self._is_held(spec)) for n, spec in specs)
        return json.dumps([number for number, is_held in held if is_held is is_paused])

    def _held_or_not(self, selection: Any, ids: list[int]) -> list[int]:
        """Of the tasks that were found those that are paused, or are not, as far as their specs have not said so."""
        if selection.is_paused is None or not self.preempted:
            return ids
        if not selection.is_paused:
            return [task_id for task_id in ids if task_id not in self.preempted]
        specs = self.specs()
        found = self.specs_of(ids)
        return [i for i, number in found if i in self.preempted or self._is_held(specs[number])]

    def _is_held(self, spec: Any) -> bool:
        return bool(self.paused_by(spec.queue, spec.kind, spec.group))

    def _led_to(self, selection: Any, kinds: Collection[str] | None, after: int) -> tuple[list[int], int]:
        """The tasks to which a key leads, or a tag, also those that have ended; behind which to go on, 0 for all."""
        if selection.key is not None:
            return sorted(task_id for kind in kinds or () for task_id in self.tasks_of_key(kind, selection.key)), 0
        led = self.tasks_of_tag(*(whole_tag(selection) or ("", "")), after, LED)
        return led, led[-1] if len(led) == LED else 0

    def forget_delayed(self, task_ids: Sequence[int]) -> int:
        """These tasks end now: they wait for no time any more. How many did."""
        return self._write(DELETE_DELAYED, [(task_id,) for task_id in task_ids])

    def cancel_requests(self) -> list[int]:
        """The tasks that shall end as soon as no worker has them."""
        return [task_id for (task_id,) in self._read(SELECT_CANCEL_REQUESTS)]

    def insert_cancel_requests(self, rows: Rows) -> None:
        """Note that tasks shall end, given as (task_id, requested_us). Idempotent."""
        self._write(INSERT_CANCEL_REQUEST, rows)

    def delete_cancel_requests(self, task_ids: Sequence[int]) -> None:
        """These tasks have ended."""
        self._write(DELETE_CANCEL_REQUEST, [(task_id,) for task_id in task_ids])

    def _ids(self, sql: str, *parameters: object) -> list[int]:
        return [task_id for (task_id,) in self._read(sql, parameters)]


def _state(
    spec: int,
    status: int | None,
    is_delayed: int,
    is_behind: int,
    is_preempted: int,
    is_blocked: int,
    phase: int | None,
) -> State:
    is_waiting = phase is not None and phase != FINALIZING
    is_held = bool(is_delayed or is_behind or is_preempted or is_blocked or is_waiting)
    return State(spec, status, is_held, bool(is_behind or is_blocked), is_waiting, bool(is_blocked))
