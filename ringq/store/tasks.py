"""Store: tasks on their way - what the dispatcher reads, and the mark below which nothing is left to read."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ringq.model import Reason
from ringq.store.preempted import PreemptedTables
from ringq.store.session import Rows

# A task is active while it has no receipt. Active tasks are found in three places: above the low-water mark,
# in `straggler` (at or below it), and in `delayed` (their time has not come).

# The task's time has come; its own row says where its delayed row is.
DELETE_DELAYED: Final = """
DELETE FROM delayed WHERE run_at_us = (SELECT run_at_us FROM task WHERE id = ?1) AND task_id = ?1
"""

# The next attempt is not before then.
UPDATE_RUN_AT: Final = "UPDATE task SET run_at_us = ? WHERE id = ?"

# Keeps a task findable that is active at or below the mark.
INSERT_STRAGGLER: Final = """
INSERT INTO straggler (task_id)
SELECT id FROM task WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM receipt WHERE task_id = ?1)
ON CONFLICT (task_id) DO NOTHING
"""

# The straggler has ended.
DELETE_STRAGGLER: Final = "DELETE FROM straggler WHERE task_id = ?"

# All of them, to know without a question which receipts concern one.
SELECT_STRAGGLERS: Final = "SELECT task_id FROM straggler"

# Refills the dispatcher's window, in the order of the ids.
SELECT_ACTIVE_TASKS: Final = """
SELECT task.id, task.spec, task.payload FROM task
WHERE task.id BETWEEN ?1 AND ?2
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
    AND (task.run_at_us IS NULL OR NOT EXISTS (
        SELECT 1 FROM delayed WHERE delayed.run_at_us = task.run_at_us AND delayed.task_id = task.id))
ORDER BY task.id LIMIT ?3
"""

# The same for single tasks that came due or came back, as a JSON array of ids: one statement for any number.
SELECT_ACTIVE_TASKS_BY_ID: Final = """
SELECT task.id, task.spec, task.payload
FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
WHERE NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
"""

# Where tasks that came due or came back belong; without their payloads, which may be large.
SELECT_ACTIVE_SPECS_BY_ID: Final = """
SELECT task.id, task.spec
FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
WHERE NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
"""

# The same of a range, for lanes that are sorted anew: who has ended is found out when it is loaded.
SELECT_SPECS_BETWEEN: Final = "SELECT id, spec FROM task WHERE id BETWEEN ? AND ?"

# A start's walk over what is active: two primary keys side by side, from the mark on.
SELECT_ACTIVE_IDS: Final = """
SELECT task.id, task.spec FROM task
WHERE task.id > ?1
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
    AND (task.run_at_us IS NULL OR NOT EXISTS (
        SELECT 1 FROM delayed WHERE delayed.run_at_us = task.run_at_us AND delayed.task_id = task.id))
ORDER BY task.id LIMIT ?2
"""

# The active tasks at or below the mark come first.
SELECT_STRAGGLER_IDS: Final = """
SELECT task.id, task.spec FROM straggler JOIN task ON task.id = straggler.task_id ORDER BY straggler.task_id
"""

# Where the mark must stop: tasks that are active and would be lost to a start if the mark passed them.
SELECT_ACTIVE_FROM: Final = """
SELECT task.id FROM task
WHERE task.id > ?1 AND task.id <= ?2
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
    AND (task.run_at_us IS NULL OR NOT EXISTS (
        SELECT 1 FROM delayed WHERE delayed.run_at_us = task.run_at_us AND delayed.task_id = task.id))
ORDER BY task.id LIMIT ?3
"""

# Whether the mark may simply be moved, as nearly always: then every id up to there has its receipt.
COUNT_RECEIPTS_FROM: Final = "SELECT COUNT(*) FROM receipt WHERE task_id > ?1 AND task_id <= ?2"

# Where the mark is.
SELECT_LOW_WATER: Final = "SELECT low_water FROM meta WHERE id = 1"

# Moves the mark.
UPDATE_LOW_WATER: Final = "UPDATE meta SET low_water = ? WHERE id = 1"

# Tasks whose time has come, the longest overdue first.
SELECT_DUE: Final = """
SELECT run_at_us, task_id FROM delayed
WHERE (run_at_us, task_id) > (?1, ?2) AND run_at_us <= ?3
ORDER BY run_at_us, task_id LIMIT ?4
"""

# When the loop must look again.
SELECT_NEXT_DUE: Final = """
SELECT run_at_us FROM delayed WHERE (run_at_us, task_id) > (?, ?) ORDER BY run_at_us, task_id LIMIT 1
"""

# A long attempt's lease; a later attempt takes the earlier one's place.
INSERT_LEASE: Final = """
INSERT INTO lease (task_id, lease, kind, attempt, worker, started_us) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET
    lease = excluded.lease, kind = excluded.kind, attempt = excluded.attempt,
    worker = excluded.worker, started_us = excluded.started_us
"""

# The attempt has ended.
DELETE_LEASE: Final = "DELETE FROM lease WHERE task_id = ?"

# What was running for a while when the last owner died.
SELECT_LEASES: Final = "SELECT task_id, lease, kind, attempt, worker, started_us FROM lease ORDER BY task_id"

# The last attempt of a task before it was last given another chance, 0 for none: all limits count from then on.
DIED: Final = """COALESCE(
    (SELECT MAX(lease) FROM attempt AS dead WHERE dead.task_id = {0} AND dead.status IS NOT NULL), 0)"""

# What happened so far to active tasks that were interrupted: limits count from when the task was last a dead letter.
# Once for each task, not for each attempt: one that is snoozed has thousands.
SELECT_ATTEMPTS_SUMMARY: Final = f"""
WITH active AS MATERIALIZED (
    SELECT known.task_id, {DIED.format("known.task_id")} AS died
    FROM (
        SELECT task_id FROM attempt WHERE task_id > ?1
        UNION SELECT task_id FROM straggler
        UNION SELECT task_id FROM delayed) AS known
    WHERE NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = known.task_id)
)
SELECT
    active.task_id,
    SUM(lease > 0 AND attempt.reason NOT IN (?2, ?9, ?11, ?12)),
    SUM(lease > died AND attempt.reason = ?3),
    SUM(lease > died AND attempt.reason IN (?4, ?5)),
    SUM(lease > died AND attempt.reason IN (?6, ?7, ?8, ?10, ?13, ?14))
FROM active CROSS JOIN attempt ON attempt.task_id = active.task_id
GROUP BY active.task_id
"""

# How many ids of a range were never given, or removed since.
COUNT_TASKS: Final = "SELECT COUNT(*) FROM task WHERE id BETWEEN ? AND ?"

# The ids of a range, to find the one that is missing.
SELECT_IDS: Final = "SELECT id FROM task WHERE id BETWEEN ? AND ? ORDER BY id"


# What the summary of attempts counts, in the order of its parameters.
REASONS: Final = (
    *(Reason.SNOOZED.code, Reason.CRASH.code, Reason.LOST.code, Reason.DAMAGED_RECEIPT.code),
    *(Reason.HANDLER_ERROR.code, Reason.RUN_TIMEOUT.code, Reason.RETRY_LATER.code, Reason.THROTTLED.code),
    *(Reason.MEMORY_LIMIT.code, Reason.PAUSED.code, Reason.PREEMPTED.code),
    *(Reason.CALLBACK_TIMEOUT.code, Reason.CALLBACK_FAILED.code),
)

LAG_MAX: Final = 100_000  # ids by which the mark may lag because of a few old tasks
STRAGGLERS_MAX: Final = 64  # of one move: where more are active, they are the backlog


class TaskTables(PreemptedTables):
    """Statements about tasks that have not ended. Those that write belong into `transaction()`."""

    low_water = 0
    _stragglers: set[int]

    # -- dispatching --------------------------------------------------------------------------

    def load_tasks(
        self, first_id: int, last_id: int, limit: int, bytes_max: int = sys.maxsize
    ) -> list[tuple[int, int, str]]:
        """(id, spec, payload) of the first `limit` tasks of a range that are active and not delayed.

        None comes behind the one with which the payloads reach `bytes_max`.
        """
        return self._load(SELECT_ACTIVE_TASKS, (first_id, last_id, limit), bytes_max)

    def load_tasks_by_id(self, task_ids: Sequence[int], bytes_max: int = sys.maxsize) -> list[tuple[int, int, str]]:
        """(id, spec, payload) of those of these tasks that are active, delayed or not, in the order given.

        None comes behind the one with which the payloads reach `bytes_max`.
        """
        return self._load(SELECT_ACTIVE_TASKS_BY_ID, (json.dumps(list(task_ids)),), bytes_max)

    def _load(self, sql: str, parameters: tuple[Any, ...], bytes_max: int) -> list[tuple[int, int, str]]:
        rows: list[tuple[int, int, str]] = []
        size = 0
        for row in self._each(sql, parameters):
            rows.append(row)
            size += len(row[2])
            if size >= bytes_max:
                break
        return rows

    def specs_of(self, task_ids: Sequence[int]) -> list[tuple[int, int]]:
        """(id, spec) of those of these tasks that are active, in the order given."""
        return self._read(SELECT_ACTIVE_SPECS_BY_ID, (json.dumps(list(task_ids)),))

    def specs_between(self, first_id: int, last_id: int) -> list[tuple[int, int]]:
        """(id, spec) of the tasks of a range, in order, whether they have ended or not."""
        return self._read(SELECT_SPECS_BETWEEN, (first_id, last_id))

    def active_ids(self, chunk: int = 10_000) -> Iterator[list[tuple[int, int]]]:
        """(id, spec) of all active tasks in the order of their ids, in lists of at most `chunk`.

        Without those in `delayed`: also the ones whose time has come meanwhile are given by `due` alone. Without
        preempted ones.
        """
        held = self.preempted
        stragglers = [row for row in self._read(SELECT_STRAGGLER_IDS) if row[0] not in held]
        for start in range(0, len(stragglers), chunk):
            yield stragglers[start : start + chunk]
        last = self.low_water
        while rows := self._read(SELECT_ACTIVE_IDS, (last, chunk)):
            last = rows[-1][0]
            yield [row for row in rows if row[0] not in held] if held else rows

    def due(self, after: tuple[int, int], now_us: int, limit: int) -> list[tuple[int, int]]:
        """(run_at_us, task_id) of delayed tasks whose time has come, the longest overdue first.

        They stay delayed until `delete_delayed`; `after` is the row to go on from, (-1, -1) for the first.
        """
        return self._read(SELECT_DUE, (*after, now_us, limit))

    def next_due_us(self, after: tuple[int, int] = (-1, -1)) -> int | None:
        """When the first of the delayed tasks behind `after` starts."""
        row = self._read_one(SELECT_NEXT_DUE, after)
        return None if row is None else int(row[0])

    def delete_delayed(self, task_ids: Sequence[int]) -> None:
        """These are no longer delayed: they came due or, in the transaction of their receipt, have ended.

        One that is active now and lies at or below the mark becomes a straggler in the same transaction.
        """
        self._write(DELETE_DELAYED, [(task_id,) for task_id in task_ids])
        self._add_stragglers([task_id for task_id in task_ids if task_id <= self.low_water])

    def put_off(self, rows: Sequence[tuple[int, int]]) -> None:
        """Delay active tasks that are not delayed now, given as (run_at_us, task_id): their next attempt waits."""
        self._write(UPDATE_RUN_AT, rows)
        self.insert_delayed(rows)
        below = self._stragglers.intersection([task_id for _, task_id in rows])
        if below:
            self._delete_stragglers(below)

    def insert_leases(self, rows: Rows) -> None:
        """Make leases durable, given as (task_id, lease, kind, attempt, worker, started_us). Idempotent."""
        self._write(INSERT_LEASE, rows)

    def delete_leases(self, task_ids: Sequence[int]) -> None:
        """The attempts of these tasks have ended."""
        self._write(DELETE_LEASE, [(task_id,) for task_id in task_ids])

    def leases(self) -> list[tuple[int, int, int, int, int, int]]:
        """(task_id, lease, kind, attempt, worker, started_us) of every attempt with a durable lease."""
        return self._read(SELECT_LEASES)

    def attempts_summary(self) -> dict[int, tuple[int, int, int, int]]:
        """task_id -> (attempts, crashes, lost, failures) of active tasks that had attempts; damaged counts as lost."""
        rows = self._read(SELECT_ATTEMPTS_SUMMARY, (self.low_water, *REASONS))
        return {row[0]: row[1:] for row in rows}

    # -- the mark -----------------------------------------------------------------------------

    def set_low_water(self, task_id: int, stragglers: Sequence[int] = ()) -> int:
        """Move the mark up to `task_id`; where it is now.

        Every task at or below the mark has ended, is in `delayed`, or is a straggler. `stragglers` are active
        tasks the mark shall pass. It stops before any other active one, whatever the caller believes, and
        never goes back: what becomes active below it is a straggler.
        """
        task_id = min(task_id, self.next_task_id - 1)
        if task_id <= self.low_water:
            return self.low_water
        may_pass, passed, last, row = set(stragglers), [], self.low_water, None
        if self._read_one(COUNT_RECEIPTS_FROM, (last, task_id))[0] < task_id - last:  # a fourth of looking
            while (row := self._read_one(SELECT_ACTIVE_FROM, (last, task_id, 1))) and row[0] in may_pass:
                last = row[0]
                passed.append(last)
        mark = task_id if row is None else row[0] - 1
        if mark > self.low_water:
            self._add_stragglers(passed)
            self._write(UPDATE_LOW_WATER, [(mark,)])
            self._reload.add(self._load_low_water)
            self.low_water = mark
        return self.low_water

    def leave_stragglers(self, span: int) -> int:
        """If the mark lags far behind because of a few old tasks, move it by up to `span` ids past them; where it is.

        One task that waits for weeks would otherwise make each start, and each count, read everything since.
        """
        upto = min(self.low_water + span, self.next_task_id - 1 - LAG_MAX)
        if upto <= self.low_water:
            return self.low_water
        found = self._read(SELECT_ACTIVE_FROM, (self.low_water, upto, STRAGGLERS_MAX + 1))
        if len(found) > STRAGGLERS_MAX:
            return self.low_water
        return self.set_low_water(upto, [row[0] for row in found])

    # -- small questions ----------------------------------------------------------------------

    def missing_tasks(self, ranges: Sequence[tuple[int, int]]) -> int | None:
        """The first id in these ranges that no task has, or None."""
        for first, last in ranges:
            if self._read_one(COUNT_TASKS, (first, last))[0] == last - first + 1:
                continue
            expected = first
            for (task_id,) in self._read(SELECT_IDS, (first, last)):
                if task_id != expected:
                    break
                expected += 1
            return expected
        return None

    def _add_stragglers(self, task_ids: Sequence[int]) -> None:
        if self._write(INSERT_STRAGGLER, [(task_id,) for task_id in task_ids]):
            self._reload.add(self._load_stragglers)
            self._stragglers.update(task_ids)  # one that has ended already does no harm: no receipt will name it

    def _delete_stragglers(self, task_ids: set[int]) -> None:
        self._write(DELETE_STRAGGLER, [(task_id,) for task_id in task_ids])
        self._reload.add(self._load_stragglers)
        self._stragglers -= task_ids

    def _load_low_water(self) -> None:
        self.low_water = self._read_one(SELECT_LOW_WATER)[0]

    def _load_stragglers(self) -> None:
        self._stragglers = {row[0] for row in self._read(SELECT_STRAGGLERS)}
