"""Store: dead letters - found, given another chance, or forgotten."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from ringq.model import Status
from ringq.store.filters import specs_of, tagged, wanted_tags
from ringq.store.serial import SerialTables
from ringq.store.tags import DELETE_TAGS
from ringq.tags import digest_of

# Dead letters as they died.
SELECT_DEAD: Final = """
SELECT task_id, ended_us FROM receipt
WHERE status <> 10 AND status = ?1 AND (ended_us, task_id) > (?2, ?3) AND (?4 IS NULL OR ended_us < ?4)
ORDER BY ended_us, task_id LIMIT ?5
"""

# Those of them that are meant, in their order.
SELECT_CHOSEN: Final = f"""
SELECT task.id FROM json_each(?1) AS led CROSS JOIN task ON task.id = led.value
WHERE (?3 IS NULL OR task.spec IN (SELECT value FROM json_each(?3)))
    AND (?4 IS NULL OR task.submitted_us < ?4) AND (?5 IS NULL OR task.submitted_us >= ?5)
    AND (?7 IS NULL OR EXISTS (SELECT 1 FROM task_key WHERE task_key.task_id = task.id AND digest = ?7)){tagged(6)}
LIMIT ?2
"""

# The same, without those whose key another task has now.
SELECT_RETRYABLE: Final = SELECT_CHOSEN.replace(
    "LIMIT",
    """AND NOT EXISTS (
        SELECT 1 FROM task_key
        JOIN spec ON spec.id = task.spec
        JOIN active_key ON active_key.kind = spec.kind AND active_key.digest = task_key.digest
        WHERE task_key.task_id = task.id)
LIMIT""",
)

# The same, without those that others need: they stay, and would be found again and again.
SELECT_PURGEABLE: Final = SELECT_CHOSEN.replace(
    "LIMIT",
    """AND NOT EXISTS (SELECT 1 FROM map_chunk WHERE map_chunk.task_id = task.id)
    AND NOT EXISTS (SELECT 1 FROM map_piece WHERE map_piece.task_id = task.id)
    AND NOT EXISTS (SELECT 1 FROM edge WHERE edge.upstream = task.id
        AND NOT EXISTS (SELECT 1 FROM receipt AS heir WHERE heir.task_id = edge.task_id))
LIMIT""",
)

# How some tasks have ended, or NULL.
SELECT_STATUSES: Final = """
SELECT task.id, receipt.status
FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value
LEFT JOIN receipt ON receipt.task_id = task.id
"""

# What the statistics have of these.
SELECT_SUMS: Final = """
SELECT receipt.kind, receipt.status, COUNT(*), SUM(receipt.duration_us)
FROM json_each(?) AS wanted CROSS JOIN receipt ON receipt.task_id = wanted.value
GROUP BY receipt.kind, receipt.status
"""

# How many attempts each had.
SELECT_ATTEMPT_NUMBERS: Final = """
SELECT receipt.task_id, receipt.attempt
FROM json_each(?) AS wanted CROSS JOIN receipt ON receipt.task_id = wanted.value
"""

# What ended the task is one attempt among others. If no attempt did, it is kept as one with the lease 0, the last such.
INSERT_ATTEMPTS: Final = """
INSERT INTO attempt
    (task_id, lease, kind, attempt, reason, ended_us, duration_us, worker, cpu_us, rss_kib, error, status)
SELECT task_id, lease, kind, attempt, reason, ended_us, duration_us, worker, cpu_us, rss_kib, error, status
FROM receipt WHERE task_id IN (SELECT value FROM json_each(?))
ON CONFLICT (task_id, lease) DO UPDATE SET
    attempt = excluded.attempt, reason = excluded.reason, ended_us = excluded.ended_us, error = excluded.error
WHERE lease = 0
"""

# And then the last one before it marks where all limits begin anew.
UPDATE_LAST_ATTEMPTS: Final = """
UPDATE attempt SET status = receipt.status FROM receipt
WHERE receipt.task_id IN (SELECT value FROM json_each(?)) AND receipt.lease = 0
    AND attempt.task_id = receipt.task_id AND attempt.lease > 0
    AND attempt.lease = (SELECT MAX(lease) FROM attempt AS last WHERE last.task_id = receipt.task_id)
"""

# The task is active again.
DELETE_RECEIPTS: Final = "DELETE FROM receipt WHERE task_id IN (SELECT value FROM json_each(?))"

# Those that carry calls of a map that may be continued, or are the children or dependencies of active tasks: these
# would miss them.
SELECT_NEEDED: Final = """
SELECT wanted.value FROM json_each(?) AS wanted
WHERE EXISTS (SELECT 1 FROM map_chunk WHERE map_chunk.task_id = wanted.value)
    OR EXISTS (SELECT 1 FROM map_piece WHERE map_piece.task_id = wanted.value)
    OR EXISTS (SELECT 1 FROM edge WHERE edge.upstream = wanted.value
        AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = edge.task_id))
"""

# The last id that was given stays so, though its task is gone: ids are never given twice.
UPDATE_HIGHEST_ID: Final = "UPDATE meta SET highest_task_id = MAX(highest_task_id, ?) WHERE id = 1"

# All there is of tasks.
DELETE_TASKS: Final = (
    "DELETE FROM output WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM task_key WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM serial WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM attempt WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM renewal WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM scheduled_task WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM memo WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM checkpoint WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM event WHERE task_id IN (SELECT value FROM json_each(?))",
    """DELETE FROM edge WHERE (upstream, task_id) IN (
        SELECT edge.upstream, edge.task_id FROM json_each(?) AS gone CROSS JOIN edge ON edge.upstream = gone.value)""",
    """DELETE FROM edge WHERE (upstream, task_id) IN (
        SELECT edge.upstream, edge.task_id FROM json_each(?) AS gone
        CROSS JOIN edge ON edge.is_open = 0 AND edge.task_id = gone.value)""",
    *DELETE_TAGS,
    DELETE_RECEIPTS,
    "DELETE FROM task WHERE id IN (SELECT value FROM json_each(?))",
)

LED: Final = 5_000  # dead letters looked at for one request: some 20 ms


class DeadTables(SerialTables):
    """Statements about dead letters. Those that write belong into `transaction()`."""

    def find_dead(
        self, dead: Any, *, retryable: bool = False, purgeable: bool = False
    ) -> tuple[list[int], tuple[int, int] | None]:
        """Dead letters that a `protocol.Dead` without ids means, what died first before the others.

        `retryable`: without those whose key another task has now. `purgeable`: without chunks that must stay.
        Returns at most its `limit` of them, and behind which to go on; None if those are all.
        """
        rows = self._read(SELECT_DEAD, (Status.DEAD_LETTER.code, *dead.after, dead.before_us, LED))
        sql = SELECT_RETRYABLE if retryable else SELECT_PURGEABLE if purgeable else SELECT_CHOSEN
        digest = None if dead.key is None else digest_of(dead.key)
        kinds = None if dead.kind is None else self.names_of(dead.kind)
        wanted = (
            json.dumps([task_id for task_id, _ in rows]), dead.limit, specs_of(dead, self.specs().items(), kinds),
            dead.submitted_before_us, dead.submitted_after_us, wanted_tags(dead), digest,
        )  # fmt: skip
        ids = [task_id for (task_id,) in self._read(sql, wanted)]
        if len(ids) == dead.limit:
            rows = [row for row in rows if row[0] == ids[-1]]
        elif len(rows) < LED:
            return ids, None
        task_id, ended_us = rows[-1]
        return ids, (ended_us, task_id)

    def statuses(self, task_ids: Sequence[int]) -> dict[int, int | None]:
        """task_id -> the code of its terminal status, None if it has none; without those that do not exist."""
        return dict(self._read(SELECT_STATUSES, (json.dumps(task_ids),)))

    def release_dead(self, task_ids: Sequence[int]) -> dict[int, int]:
        """Make these dead letters active again; task_id -> how many attempts it had."""
        wanted = (json.dumps(task_ids),)
        attempts = dict(self._read(SELECT_ATTEMPT_NUMBERS, wanted))
        self._write(INSERT_ATTEMPTS, [wanted])
        self._write(UPDATE_LAST_ATTEMPTS, [wanted])
        self._forget_receipts(wanted)
        self._write(DELETE_RECEIPTS, [wanted])
        self._add_stragglers([task_id for task_id in task_ids if task_id <= self.low_water])
        return attempts

    def purge_dead(self, task_ids: Sequence[int]) -> int:
        """Delete these dead letters, but those that an active task needs, or a map that may be continued; how many."""
        needed = {task_id for (task_id,) in self._read(SELECT_NEEDED, (json.dumps(task_ids),))}
        gone = [task_id for task_id in task_ids if task_id not in needed]
        wanted = (json.dumps(gone),)
        self._forget_receipts(wanted)
        self._write(UPDATE_HIGHEST_ID, [(self.next_task_id - 1,)])
        for statement in DELETE_TASKS:
            self._write(statement, [wanted])
        return len(gone)

    def _forget_receipts(self, wanted: tuple[str]) -> None:
        """They are counted no more. The longest duration that was ever seen stays."""
        sums = {(kind, status): (-count, -total, 0) for kind, status, count, total in self._read(SELECT_SUMS, wanted)}
        self.add_statistics(sums)
