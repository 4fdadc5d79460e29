"""Store: ended tasks that have been kept for long enough, in the order of their ends, a few at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from ringq.store.dead import DELETE_TASKS, UPDATE_HIGHEST_ID
from ringq.store.schedules import ScheduleTables

# Whether something still needs the task: a map that may be continued, a schedule that has not taken note of its end, a
# task that depends on it or has it as a child, and may ask for its result.
NEEDED: Final = """
EXISTS (SELECT 1 FROM map_chunk WHERE map_chunk.task_id = receipt.task_id)
    OR EXISTS (SELECT 1 FROM map_piece WHERE map_piece.task_id = receipt.task_id)
    OR EXISTS (SELECT 1 FROM scheduled_task WHERE scheduled_task.task_id = receipt.task_id AND open = 1)
    OR EXISTS (SELECT 1 FROM edge WHERE edge.upstream = receipt.task_id
        AND NOT EXISTS (SELECT 1 FROM receipt AS heir WHERE heir.task_id = edge.task_id))
"""

# What ended first, from behind one on. Dead letters are among them: to leave them out here might take a long walk.
SELECT_ENDED: Final = f"""
SELECT receipt.ended_us, receipt.task_id, receipt.status, task.spec, {NEEDED}
FROM receipt INDEXED BY receipt_ended CROSS JOIN task ON task.id = receipt.task_id
WHERE (receipt.ended_us, receipt.task_id) > (?1, ?2) AND receipt.ended_us <= ?3
ORDER BY receipt.ended_us, receipt.task_id LIMIT ?4
"""  # noqa: S608

# The same of dead letters alone, which are few among millions.
SELECT_ENDED_DEAD: Final = f"""
SELECT receipt.ended_us, receipt.task_id, receipt.status, task.spec, {NEEDED}
FROM receipt INDEXED BY receipt_unsuccessful CROSS JOIN task ON task.id = receipt.task_id
WHERE receipt.status <> 10 AND receipt.status = 12
    AND receipt.ended_us >= ?1 AND (receipt.ended_us > ?1 OR receipt.task_id > ?2) AND receipt.ended_us <= ?3
ORDER BY receipt.ended_us, receipt.task_id LIMIT ?4
"""  # noqa: S608


class EndedRow(NamedTuple):
    """One task that has ended; `spec` by its number."""

    ended_us: int
    task_id: int
    status: int
    spec: int
    is_needed: int


class RetentionTables(ScheduleTables):
    """Statements about what is forgotten. Those that write belong into `transaction()`."""

    def ended(self, *, dead: bool, after: tuple[int, int], upto_us: int, limit: int) -> list[EndedRow]:
        """What ended at or before an instant and behind `after`, given as (ended_us, task_id), in that order.

        `dead`: dead letters alone.
        """
        rows = self._read(SELECT_ENDED_DEAD if dead else SELECT_ENDED, (*after, upto_us, limit))
        return list(map(EndedRow._make, rows))

    def forget(self, task_ids: Sequence[int]) -> None:
        """Delete these ended tasks, with all there is of them. They stay counted in the statistics."""
        wanted = (json.dumps(task_ids),)
        self._write(UPDATE_HIGHEST_ID, [(self.next_task_id - 1,)])
        for statement in DELETE_TASKS:
            self._write(statement, [wanted])
