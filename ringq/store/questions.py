"""Store: what people and dashboards may ask, answered by rows of a read-only connection. `query` gives them shape."""

# ruff: noqa: S608 - statements are put together from the constants of this module; values are always bound

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from ringq.model import Reason, Status
from ringq.store.engine import open_reader
from ringq.store.failures import translated
from ringq.store.history import (
    COUNT_DELAYED_BELOW,
    COUNT_RECEIPTS_ABOVE,
    COUNT_STRAGGLERS,
    COUNT_TASKS_ABOVE,
)
from ringq.store.pauses import COUNT_PAUSED_ABOVE, COUNT_PAUSED_BELOW, OF_PAUSED, SELECT_PAUSED_SPECS
from ringq.store.schedules import SELECT_SCHEDULES, ScheduleRow
from ringq.store.tasks import SELECT_LOW_WATER

FIRST: Final = (1 << 63) - 1  # larger than every id and time: where "newest first" begins

# A task with all that is known of it. A filter that is not given is NULL; names are compared, never patterns.
TASK_ROW: Final = f"""
SELECT
    task.id, kind.name, spec.queue, spec.group_name, spec.priority, receipt.status, receipt.reason, task.payload,
    spec.run_timeout_ms, spec.retry,
    COALESCE(receipt.attempt, (
        SELECT COUNT(*) FROM attempt WHERE attempt.task_id = task.id
            AND attempt.reason NOT IN ({Reason.SNOOZED.code}, {Reason.THROTTLED.code}))),
    task.submitted_us, task.run_at_us, lease.started_us, receipt.ended_us,
    CASE WHEN receipt.lease > 0 THEN receipt.duration_us END, receipt.result, receipt.error,
    (SELECT queue.paused FROM queue WHERE queue.name = spec.queue)
"""
TASK_JOINS: Final = """
JOIN spec ON spec.id = task.spec
JOIN kind ON kind.id = spec.kind
LEFT JOIN receipt ON receipt.task_id = task.id
LEFT JOIN lease ON lease.task_id = task.id
"""
# Told by the task's own row, before anything is looked up for it: a rare queue means a walk over many tasks.
TASK_FILTER: Final = """
    AND (?3 IS NULL OR task.spec IN (
        SELECT spec.id FROM spec JOIN kind ON kind.id = spec.kind WHERE kind.name = ?3))
    AND (?4 IS NULL OR task.spec IN (SELECT id FROM spec WHERE queue = ?4))
"""
# By the table that leads: SQLite would sort all rows rather than see that the other's ids are the same.
BY_TASK: Final = "ORDER BY task.id DESC LIMIT ?2"
BY_RECEIPT: Final = "ORDER BY receipt.task_id DESC LIMIT ?2"
BY_LEASE: Final = "ORDER BY lease.task_id DESC LIMIT ?2"

# One task by its id.
SELECT_TASK_ROW: Final = TASK_ROW + "FROM task" + TASK_JOINS + "WHERE task.id = ?"

# How tasks ended, by a JSON array of their ids; one that has not has NULLs.
SELECT_ENDS: Final = """
SELECT task.id, receipt.status, receipt.reason, receipt.result, receipt.error
FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
LEFT JOIN receipt ON receipt.task_id = task.id
"""

# How many calls tasks carry, and how many of them failed: of a JSON array of ids those that carry calls of a map.
SELECT_CALLS: Final = """
SELECT task.id, json_array_length(task.payload),
    CASE WHEN json_valid(COALESCE(receipt.result, receipt.error))
    THEN (SELECT COUNT(*) FROM json_each(COALESCE(receipt.result, receipt.error), '$.errors')) ELSE 0 END
FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
LEFT JOIN receipt ON receipt.task_id = task.id
WHERE substr(task.payload, 1, 1) = '[' AND json_valid(task.payload)
"""

# Tasks of any status, newest first.
SELECT_TASK_ROWS: Final = TASK_ROW + "FROM task" + TASK_JOINS + "WHERE task.id < ?1" + TASK_FILTER + BY_TASK

# From the receipts: there may be a million pending tasks above the newest completed one.
SELECT_COMPLETED_ROWS: Final = (
    TASK_ROW
    + """FROM receipt
CROSS JOIN task ON task.id = receipt.task_id
JOIN spec ON spec.id = task.spec
JOIN kind ON kind.id = spec.kind
LEFT JOIN lease ON lease.task_id = task.id
WHERE receipt.status = 10 AND receipt.task_id < ?1"""
    + TASK_FILTER
    + BY_RECEIPT
)

# Few tasks end otherwise: they have an index of their own.
SELECT_UNSUCCESSFUL_ROWS: Final = (
    TASK_ROW
    + """FROM receipt
CROSS JOIN task ON task.id = receipt.task_id
JOIN spec ON spec.id = task.spec
JOIN kind ON kind.id = spec.kind
LEFT JOIN lease ON lease.task_id = task.id
WHERE receipt.status <> 10 AND receipt.status = ?5 AND receipt.task_id < ?1"""
    + TASK_FILTER
    + BY_RECEIPT
)

# What has been running for a while.
SELECT_RUNNING_ROWS: Final = (
    TASK_ROW
    + """FROM lease
CROSS JOIN task ON task.id = lease.task_id
JOIN spec ON spec.id = task.spec
JOIN kind ON kind.id = spec.kind
LEFT JOIN receipt ON receipt.task_id = task.id
WHERE lease.task_id < ?1 AND receipt.task_id IS NULL"""
    + TASK_FILTER
    + BY_LEASE
)

# Pending above the mark: everything there that has no receipt. Paused, with ?6 = 1, are those whose queue is: no row
# of a task says so, and a queue with 10^6 tasks is paused at once.
SELECT_PENDING_ROWS: Final = (
    TASK_ROW
    + "FROM task"
    + TASK_JOINS
    + """WHERE task.id < ?1 AND task.id > ?5 AND receipt.task_id IS NULL AND lease.task_id IS NULL"""
    + OF_PAUSED
    + TASK_FILTER
    + BY_TASK
)

# Pending at or below the mark: only what was put aside there.
SELECT_PENDING_ROWS_BELOW: Final = (
    TASK_ROW
    + "FROM task"
    + TASK_JOINS
    + """WHERE task.id IN (SELECT task_id FROM straggler UNION SELECT task_id FROM delayed)
    AND task.id < ?1 AND task.id <= ?5 AND receipt.task_id IS NULL AND lease.task_id IS NULL"""
    + OF_PAUSED
    + TASK_FILTER
    + BY_TASK
)

# All attempts of one task, the one that ended it included.
SELECT_ATTEMPTS: Final = """
SELECT attempt.task_id, kind.name, lease, attempt, status, reason, ended_us, duration_us,
    worker, cpu_us, rss_kib, error
FROM attempt JOIN kind ON kind.id = attempt.kind WHERE task_id = ?1
UNION ALL
SELECT receipt.task_id, kind.name, lease, attempt, status, reason, ended_us, duration_us,
    worker, cpu_us, rss_kib, error
FROM receipt JOIN kind ON kind.id = receipt.kind WHERE task_id = ?1 AND lease > 0
ORDER BY lease
"""

# What its attempts printed. Of attempts that are on record: a handler may have had its worker name any other.
SELECT_OUTPUTS: Final = """
SELECT output.task_id, kind.name, output.lease, ended.attempt, output.head, output.tail, output.dropped_bytes
FROM output
JOIN (
    SELECT lease, kind, attempt FROM attempt WHERE task_id = ?1
    UNION ALL
    SELECT lease, kind, attempt FROM receipt WHERE task_id = ?1
) AS ended ON ended.lease = output.lease
JOIN kind ON kind.id = ended.kind
WHERE output.task_id = ?1
ORDER BY output.lease
"""

HISTORY_ROW: Final = """
SELECT receipt.task_id, kind.name, receipt.lease, receipt.attempt, receipt.status, receipt.reason,
    receipt.ended_us, receipt.duration_us, receipt.worker, receipt.cpu_us, receipt.rss_kib, receipt.error
FROM receipt JOIN kind ON kind.id = receipt.kind
WHERE (receipt.ended_us, receipt.task_id) < (?1, ?2)
"""
HISTORY_ORDER: Final = """
ORDER BY receipt.ended_us DESC, receipt.task_id DESC LIMIT ?3
"""

# What ended last.
SELECT_HISTORY: Final = HISTORY_ROW + HISTORY_ORDER

# What of one kind ended last.
SELECT_HISTORY_OF_KIND: Final = HISTORY_ROW + "AND receipt.kind = (SELECT id FROM kind WHERE name = ?4)" + HISTORY_ORDER

# What was completed last.
SELECT_HISTORY_COMPLETED: Final = (
    HISTORY_ROW
    + "AND +receipt.status = ?5 AND (?4 IS NULL OR receipt.kind = (SELECT id FROM kind WHERE name = ?4))"
    + HISTORY_ORDER
)

# What failed last.
SELECT_HISTORY_UNSUCCESSFUL: Final = (
    HISTORY_ROW
    + """AND receipt.status <> 10 AND receipt.status = ?5
AND (?4 IS NULL OR receipt.kind = (SELECT id FROM kind WHERE name = ?4))"""
    + HISTORY_ORDER
)

# The sums that are kept per kind and status; of dead letters that were all given another chance nothing is left.
SELECT_STATISTICS: Final = """
SELECT kind.name, statistic.status, statistic.count, statistic.duration_us, statistic.duration_max_us
FROM statistic JOIN kind ON kind.id = statistic.kind
WHERE (?1 IS NULL OR kind.name = ?1) AND statistic.count > 0
ORDER BY kind.name, statistic.status
"""

# How many tasks ever ended how.
SELECT_ENDED_COUNTS: Final = "SELECT status, SUM(count) FROM statistic GROUP BY status"

# How many have been running for a while.
COUNT_RUNNING: Final = """
SELECT COUNT(*) FROM lease
WHERE NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = lease.task_id)
"""

# How many wait for their time.
COUNT_NOT_DUE: Final = "SELECT COUNT(*) FROM delayed WHERE run_at_us > ?"

# What was said of queues.
SELECT_QUEUE_ROWS: Final = """
SELECT name, max_workers, paused, retry, cooldown, throttled_until_us, retention, dead_retention
FROM queue ORDER BY name
"""

# Every kind that was ever submitted.
SELECT_KIND_NAMES: Final = "SELECT name FROM kind ORDER BY name"

Row = tuple[Any, ...]


@contextmanager
def asking(path: Path) -> Iterator[Questions]:
    """Open the database for the questions of one moment: all of them see the same state."""
    with translated(path):
        connection = open_reader(path)
        try:
            connection.exec_driver_sql("BEGIN")
            yield Questions(connection)
        finally:
            connection.close()


class Questions:
    """Statements that only read, on one snapshot."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def task(self, task_id: int) -> Row | None:
        """One task, in the columns of TASK_ROW."""
        rows = self._rows(SELECT_TASK_ROW, task_id)
        return rows[0] if rows else None

    def ends(self, task_ids: Sequence[int]) -> list[Row]:
        """(id, status, reason, result, error) of those of these tasks that exist, in their order."""
        return self._rows(SELECT_ENDS, json.dumps(list(task_ids)))

    def calls(self, task_ids: Sequence[int]) -> list[Row]:
        """(id, calls, failed calls) of those of these tasks that carry calls of a map."""
        return self._rows(SELECT_CALLS, json.dumps(list(task_ids)))

    def attempts(self, task_id: int) -> list[Row]:
        """Its attempts by lease, in the columns of HISTORY_ROW; the status is NULL where the task went on."""
        return self._rows(SELECT_ATTEMPTS, task_id)

    def outputs(self, task_id: int) -> list[Row]:
        """(task_id, kind, lease, attempt, head, tail, dropped_bytes) of its attempts that printed, by lease."""
        return self._rows(SELECT_OUTPUTS, task_id)

    def tasks(self, status: Status | None, kind: str | None, queue: str | None, before: int, limit: int) -> list[Row]:
        """Tasks with ids below `before`, newest first, in the columns of TASK_ROW."""
        given = (before, limit, kind, queue)
        match status:
            case None:
                return self._rows(SELECT_TASK_ROWS, *given)
            case Status.COMPLETED:
                return self._rows(SELECT_COMPLETED_ROWS, *given)
            case Status.RUNNING:
                return self._rows(SELECT_RUNNING_ROWS, *given)
            case Status.PAUSED if not self._rows(SELECT_PAUSED_SPECS):
                return []  # without a walk over all that is pending
            case Status.PENDING | Status.PAUSED:
                which = (self._count(SELECT_LOW_WATER), int(status is Status.PAUSED))
                rows = self._rows(SELECT_PENDING_ROWS, *given, *which)
                if len(rows) < limit:
                    rows += self._rows(SELECT_PENDING_ROWS_BELOW, before, limit - len(rows), kind, queue, *which)
                return rows
            case _:
                return self._rows(SELECT_UNSUCCESSFUL_ROWS, *given, status.code)

    def history(self, kind: str | None, status: Status | None, before: tuple[int, int], limit: int) -> list[Row]:
        """Ended tasks before (ended_us, task_id), what ended last first, in the columns of HISTORY_ROW."""
        given = (*before, limit)
        if status is not None:
            sql = SELECT_HISTORY_COMPLETED if status is Status.COMPLETED else SELECT_HISTORY_UNSUCCESSFUL
            return self._rows(sql, *given, kind, status.code)
        if kind is not None:
            return self._rows(SELECT_HISTORY_OF_KIND, *given, kind)
        return self._rows(SELECT_HISTORY, *given)

    def statistics(self, kind: str | None) -> list[Row]:
        """(kind, status, count, total and longest duration in microseconds)."""
        return self._rows(SELECT_STATISTICS, kind)

    def counts(self) -> tuple[int, int, list[Row]]:
        """Active tasks; those of them that run; (status, count) of those that ended."""
        mark = self._count(SELECT_LOW_WATER)
        above = self._count(COUNT_TASKS_ABOVE, mark) - self._count(COUNT_RECEIPTS_ABOVE, mark)
        below = self._count(COUNT_DELAYED_BELOW, mark) + self._count(COUNT_STRAGGLERS)
        return above + below, self._count(COUNT_RUNNING), self._rows(SELECT_ENDED_COUNTS)

    def paused(self) -> int:
        """How many active tasks that do not run are held by a paused queue."""
        specs = json.dumps([row[0] for row in self._rows(SELECT_PAUSED_SPECS)])
        if specs == "[]":
            return 0
        given = (self._count(SELECT_LOW_WATER), specs)
        return self._count(COUNT_PAUSED_ABOVE, *given) + self._count(COUNT_PAUSED_BELOW, *given)

    def delayed(self, now_us: int) -> int:
        """How many tasks wait for their time."""
        return self._count(COUNT_NOT_DUE, now_us)

    def queues(self) -> list[Row]:
        """Queues of which something was said, in the columns of SELECT_QUEUE_ROWS."""
        return self._rows(SELECT_QUEUE_ROWS)

    def schedules(self) -> list[ScheduleRow]:
        """All schedules, by name."""
        return list(map(ScheduleRow._make, self._rows(SELECT_SCHEDULES)))

    def kinds(self) -> list[str]:
        """The names of all kinds."""
        return [row[0] for row in self._rows(SELECT_KIND_NAMES)]

    def _rows(self, sql: str, *parameters: object) -> list[Row]:
        return [tuple(row) for row in self._connection.exec_driver_sql(sql, parameters)]

    def _count(self, sql: str, *parameters: object) -> int:
        return int(self._connection.exec_driver_sql(sql, parameters).scalar_one())
