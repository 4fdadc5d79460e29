"""Store: which tasks a list shows, and what it shows of them, as text; part of `questions`."""

# ruff: noqa: S608 - statements are put together from the constants of this module; values are always bound

from __future__ import annotations

from typing import Final

from ringq.model import GIVEN_BACK
from ringq.store.filters import tagged
from ringq.store.held import BLOCKED_BEFORE, IS_BLOCKED, IS_WAITING
from ringq.store.pauses import MASK, OF_PAUSED, PREEMPTED, SELECT_PAUSED_SPECS

# A task with all that is known of it. A filter that is not given is NULL; names are compared, never patterns.
TASK_ROW: Final = f"""
SELECT
    task.id, kind.name, spec.queue, spec.group_name, spec.priority, receipt.status, receipt.reason, task.payload,
    spec.run_timeout_ms, spec.retry,
    COALESCE(receipt.attempt, (
        SELECT COUNT(*) FROM attempt WHERE attempt.task_id = task.id AND attempt.lease > 0
            AND attempt.reason NOT IN ({", ".join(str(reason.code) for reason in GIVEN_BACK)}))),
    task.submitted_us, task.run_at_us, lease.started_us, receipt.ended_us,
    CASE WHEN receipt.lease > 0 THEN receipt.duration_us END, receipt.result, receipt.error,
    {MASK} + {PREEMPTED},
    (SELECT text FROM label WHERE label.task_id = task.id),
    (SELECT json_group_object(tag.key, tag.value) FROM tag WHERE tag.task_id = task.id),
    (SELECT task_key.key FROM task_key WHERE task_key.task_id = task.id), spec.ttl_ms,
    (SELECT schedule.name FROM scheduled_task CROSS JOIN schedule ON schedule.id = scheduled_task.schedule
        WHERE scheduled_task.task_id = task.id),
    spec.kill_after_ms, spec.total_timeout_ms, spec.queue_timeout_ms, spec.memory_limit_kib,
    (SELECT serial.key FROM serial WHERE serial.task_id = task.id), {IS_BLOCKED}, {IS_WAITING}
"""
TASK_JOINS: Final = """
JOIN spec ON spec.id = task.spec
JOIN kind ON kind.id = spec.kind
LEFT JOIN receipt ON receipt.task_id = task.id
LEFT JOIN lease ON lease.task_id = task.id
"""
# The same where receipts lead.
FROM_RECEIPT: Final = """FROM receipt
CROSS JOIN task ON task.id = receipt.task_id
JOIN spec ON spec.id = task.spec
JOIN kind ON kind.id = spec.kind
LEFT JOIN lease ON lease.task_id = task.id
"""
# Told by the task's own row, before anything is looked up for it: a rare queue means a walk over many tasks. A kind is
# given with all its names, as a JSON array.
TASK_FILTER: Final = f"""
    AND (?3 IS NULL OR task.spec IN (
        SELECT spec.id FROM spec JOIN kind ON kind.id = spec.kind WHERE kind.name IN (SELECT value FROM json_each(?3))))
    AND (?4 IS NULL OR task.spec IN (SELECT id FROM spec WHERE queue = ?4))
    AND (?6 IS NULL OR task.spec IN (SELECT value FROM json_each(?6)))
    AND (?7 IS NULL OR task.submitted_us < ?7) AND (?8 IS NULL OR task.submitted_us >= ?8)
    AND (?10 IS NULL OR EXISTS (SELECT 1 FROM task_key WHERE task_key.task_id = task.id AND digest = ?10)){tagged(9)}
"""
# Of any status, by its code.
OF_STATUS: Final = f"""(?5 IS NULL OR ?5 = COALESCE(receipt.status, CASE
        WHEN {IS_WAITING} THEN 3 WHEN lease.task_id IS NOT NULL THEN 1 WHEN {IS_BLOCKED} THEN 4
        WHEN task.spec IN ({SELECT_PAUSED_SPECS}) THEN 2
        WHEN task.id IN (SELECT task_id FROM preempted) THEN 2 ELSE 0 END))"""
# By the table that leads: SQLite would sort all rows rather than see that the other's ids are the same.
BY_TASK: Final = "ORDER BY task.id DESC LIMIT ?2"
BY_RECEIPT: Final = "ORDER BY receipt.task_id DESC LIMIT ?2"
BY_LEASE: Final = "ORDER BY lease.task_id DESC LIMIT ?2"

# One task by its id.
SELECT_TASK_ROW: Final = TASK_ROW + "FROM task" + TASK_JOINS + "WHERE task.id = ?"

# Tasks of any status, newest first.
SELECT_TASK_ROWS: Final = TASK_ROW + "FROM task" + TASK_JOINS + "WHERE task.id < ?1" + TASK_FILTER + BY_TASK

# From the receipts: there may be a million pending tasks above the newest completed one.
SELECT_COMPLETED_ROWS: Final = (
    TASK_ROW + FROM_RECEIPT + """WHERE receipt.status = 10 AND receipt.task_id < ?1""" + TASK_FILTER + BY_RECEIPT
)

# Few tasks end otherwise: they have an index of their own.
SELECT_UNSUCCESSFUL_ROWS: Final = (
    TASK_ROW
    + FROM_RECEIPT
    + """WHERE receipt.status <> 10 AND receipt.status = ?5 AND receipt.task_id < ?1"""
    + TASK_FILTER
    + BY_RECEIPT
)

# From the index of tags: there may be a million tasks without this one.
SELECT_TAGGED_ROWS: Final = (
    TASK_ROW
    + """FROM tag AS leading
CROSS JOIN task ON task.id = leading.task_id"""
    + TASK_JOINS
    + """WHERE leading.key = ?11 AND leading.value = ?12 AND leading.task_id < ?1
    AND """
    + OF_STATUS
    + TASK_FILTER
    + "ORDER BY leading.task_id DESC LIMIT ?2"
)

# Of tasks to which an index has led, in this order.
SELECT_LED_ROWS: Final = (
    TASK_ROW
    + """FROM json_each(?11) AS leading
CROSS JOIN task ON task.id = leading.value"""
    + TASK_JOINS
    + """WHERE task.id < ?1 AND """
    + OF_STATUS
    + TASK_FILTER
    + "LIMIT ?2"
)

# Tasks with a tag of these keys, if they are few.
SELECT_FEW_TAGGED: Final = "SELECT task_id FROM tag WHERE key BETWEEN ?1 AND ?2 LIMIT ?3"

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

# Blocked, or with its handler done: few among many tasks, so their own rows lead.
SELECT_BLOCKED_ROWS: Final = (
    BLOCKED_BEFORE
    + TASK_ROW
    + """FROM leading CROSS JOIN task ON task.id = leading.id"""
    + TASK_JOINS
    + "WHERE receipt.task_id IS NULL AND lease.task_id IS NULL AND "
    + IS_BLOCKED
    + TASK_FILTER
    + "LIMIT ?2"
)
SELECT_WAITING_ROWS: Final = (
    TASK_ROW
    + """FROM waiting CROSS JOIN task ON task.id = waiting.task_id"""
    + TASK_JOINS
    + "WHERE waiting.task_id < ?1 AND waiting.phase <> 1 AND receipt.task_id IS NULL"
    + TASK_FILTER
    + "ORDER BY waiting.task_id DESC LIMIT ?2"
)

# Pending above the mark: everything there that has no receipt. Paused, with ?11 = 1, are those of something that
# is: no row of a task says so, and a group with 10^6 tasks is paused at once.
SELECT_PENDING_ROWS: Final = (
    TASK_ROW
    + "FROM task"
    + TASK_JOINS
    + """WHERE task.id < ?1 AND task.id > ?5 AND receipt.task_id IS NULL AND lease.task_id IS NULL"""
    + f" AND NOT {IS_BLOCKED} AND NOT {IS_WAITING}"
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
