"""Store: which active tasks wait for others, as conditions about `task.id`; part of `task_rows`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ringq.store.schema_graph import CHILDREN, PARKED

# It has not begun, since what it depends on has not ended. Its children, role 3, keep it from nothing.
IS_BLOCKED: Final = """
    EXISTS (SELECT 1 FROM edge WHERE edge.is_open = 1 AND edge.task_id = task.id AND edge.role < 3)"""

# Its handler has returned: its children live, or somebody outside has to complete it. In phase 1 it may be finalized.
IS_WAITING: Final = """
    EXISTS (SELECT 1 FROM waiting WHERE waiting.task_id = task.id AND waiting.phase <> 1)"""

# All that wait, the highest id first, each found from the one before: one may wait for 10,000 others.
BLOCKED_BEFORE: Final = """
WITH RECURSIVE leading (id) AS (
    SELECT MAX(task_id) FROM edge WHERE is_open = 1 AND task_id < ?1
    UNION ALL
    SELECT (SELECT MAX(edge.task_id) FROM edge WHERE edge.is_open = 1 AND edge.task_id < leading.id)
    FROM leading WHERE leading.id IS NOT NULL
)
"""

# For what a task waits: the first of each sort; and whether its handler has returned.
SELECT_OPEN_DEPENDENCIES: Final = """
SELECT upstream FROM edge WHERE is_open = 1 AND task_id = ? AND role < 3 ORDER BY role, place LIMIT ?
"""
SELECT_OPEN_CHILDREN: Final = """
SELECT upstream FROM edge WHERE is_open = 1 AND task_id = ? AND role = 3 ORDER BY place LIMIT ?
"""
SELECT_PHASE: Final = "SELECT phase FROM waiting WHERE task_id = ?"


class Held(NamedTuple):
    """For what a task waits: the first of its `dependencies`; of its `children`, None if it does not wait for these;
    `is_parked`, for somebody outside.
    """

    dependencies: list[int]
    children: list[int] | None
    is_parked: bool


def held(rows: Callable[[str, tuple[Any, ...]], Sequence[tuple[Any, ...]]], task_id: int, limit: int) -> Held:
    """For what it waits, at most so many of each sort. `rows`: those of a statement with its parameters."""
    phase = next((row[0] for row in rows(SELECT_PHASE, (task_id,))), None)
    dependencies, children = (
        [int(row[0]) for row in rows(sql, (task_id, limit))] for sql in (SELECT_OPEN_DEPENDENCIES, SELECT_OPEN_CHILDREN)
    )
    return Held(dependencies, children if phase == CHILDREN else None, phase == PARKED)
