"""Store: dead letters - found, given another chance, or forgotten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from ringq.model import Status
from ringq.store.keys import KeyTables

# What is asked for by kind and queue, what died first before the others.
SELECT_DEAD: Final = """
SELECT receipt.task_id FROM receipt
CROSS JOIN task ON task.id = receipt.task_id
JOIN spec ON spec.id = task.spec
JOIN kind ON kind.id = spec.kind
WHERE receipt.status <> 10 AND receipt.status = ?1
    AND (?2 IS NULL OR kind.name = ?2) AND (?3 IS NULL OR spec.queue = ?3) AND (?4 IS NULL OR receipt.ended_us < ?4)
ORDER BY receipt.ended_us, receipt.task_id LIMIT ?5
"""

# The same, without those whose key another task has now.
SELECT_RETRYABLE: Final = SELECT_DEAD.replace(
    "ORDER BY",
    """AND NOT EXISTS (
        SELECT 1 FROM task_key
        JOIN active_key ON active_key.kind = spec.kind AND active_key.digest = task_key.digest
        WHERE task_key.task_id = receipt.task_id)
ORDER BY""",
)

# The same, without chunks of a map that may be continued: they stay, and would be found again and again.
SELECT_PURGEABLE: Final = SELECT_DEAD.replace(
    "ORDER BY",
    """AND NOT EXISTS (SELECT 1 FROM map_chunk WHERE map_chunk.task_id = receipt.task_id)
ORDER BY""",
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

# What ended the task is one attempt among others.
INSERT_ATTEMPTS: Final = """
INSERT INTO attempt
    (task_id, lease, kind, attempt, reason, ended_us, duration_us, worker, cpu_us, rss_kib, error, status)
SELECT task_id, lease, kind, attempt, reason, ended_us, duration_us, worker, cpu_us, rss_kib, error, status
FROM receipt WHERE task_id IN (SELECT value FROM json_each(?))
ON CONFLICT (task_id, lease) DO NOTHING
"""

# The task is active again.
DELETE_RECEIPTS: Final = "DELETE FROM receipt WHERE task_id IN (SELECT value FROM json_each(?))"

# Those that carry calls of a map that may be continued: it would miss them.
SELECT_CHUNKS: Final = """
SELECT wanted.value FROM json_each(?) AS wanted
WHERE EXISTS (SELECT 1 FROM map_chunk WHERE map_chunk.task_id = wanted.value)
"""

# The last id that was given stays so, though its task is gone: ids are never given twice.
UPDATE_HIGHEST_ID: Final = "UPDATE meta SET highest_task_id = MAX(highest_task_id, ?) WHERE id = 1"

# All there is of tasks.
DELETE_TASKS: Final = (
    "DELETE FROM output WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM task_key WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM attempt WHERE task_id IN (SELECT value FROM json_each(?))",
    "DELETE FROM scheduled_task WHERE task_id IN (SELECT value FROM json_each(?))",
    DELETE_RECEIPTS,
    "DELETE FROM task WHERE id IN (SELECT value FROM json_each(?))",
)


class DeadTables(KeyTables):
    """Statements about dead letters. Those that write belong into `transaction()`."""

    def find_dead(
        self, kind: str | None, queue: str | None, before_us: int | None, limit: int, *, retryable: bool = False,
        purgeable: bool = False,
    ) -> list[int]:  # fmt: skip
        """Dead letters of this kind and queue that died before an instant, the oldest first; None: any.

        `retryable`: without those whose key another task has now. `purgeable`: without chunks that must stay.
        """
        sql = SELECT_RETRYABLE if retryable else SELECT_PURGEABLE if purgeable else SELECT_DEAD
        rows = self._read(sql, (Status.DEAD_LETTER.code, kind, queue, before_us, limit))
        return [task_id for (task_id,) in rows]

    def statuses(self, task_ids: Sequence[int]) -> dict[int, int | None]:
        """task_id -> the code of its terminal status, None if it has none; without those that do not exist."""
        return dict(self._read(SELECT_STATUSES, (json.dumps(task_ids),)))

    def release_dead(self, task_ids: Sequence[int]) -> dict[int, int]:
        """Make these dead letters active again; task_id -> how many attempts it had."""
        wanted = (json.dumps(task_ids),)
        attempts = dict(self._read(SELECT_ATTEMPT_NUMBERS, wanted))
        self._write(INSERT_ATTEMPTS, [wanted])
        self._forget_receipts(wanted)
        self._write(DELETE_RECEIPTS, [wanted])
        self._add_stragglers([task_id for task_id in task_ids if task_id <= self.low_water])
        return attempts

    def purge_dead(self, task_ids: Sequence[int]) -> int:
        """Delete these dead letters, but those that a map which may be continued needs; how many that were."""
        needed = {task_id for (task_id,) in self._read(SELECT_CHUNKS, (json.dumps(task_ids),))}
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
