"""Store: which tasks are paused, and by what: rows of what is paused say so, or that they were preempted their own."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

from typing import Final

from ringq.model import PauseReason
from ringq.store.held import IS_BLOCKED, IS_WAITING

# Of a task's kind, as text.
DOMAIN: Final = "substr(kind.name, 1, instr(kind.name, '::') - 1)"

# The mask of what holds a task with this spec and kind. Four searches by key for a row that is shown.
MASK: Final = f"""(
    {PauseReason.GLOBAL:d} * EXISTS (SELECT 1 FROM pause WHERE scope = 'server' AND name = '')
    + {PauseReason.QUEUE:d} * EXISTS (SELECT 1 FROM pause WHERE scope = 'queue' AND name = spec.queue)
    + {PauseReason.GROUP:d} * EXISTS (SELECT 1 FROM pause WHERE scope = 'group' AND name = spec.group_name)
    + {PauseReason.DOMAIN:d} * EXISTS (SELECT 1 FROM pause WHERE scope = 'domain' AND pause.name = {DOMAIN}))"""

# Likewise of the task itself.
PREEMPTED: Final = f"""
    {PauseReason.PREEMPTION:d} * EXISTS (SELECT 1 FROM preempted WHERE preempted.task_id = task.id)"""

# What paused tasks have in common. While nothing is paused no spec is looked at.
SELECT_PAUSED_SPECS: Final = f"""
SELECT spec.id FROM spec JOIN kind ON kind.id = spec.kind
WHERE EXISTS (SELECT 1 FROM pause) AND {MASK} <> 0
"""

# Of active tasks that do not run: those that are paused with ?11 = 1, the others with 0.
OF_PAUSED: Final = f"""
    AND (task.spec IN ({SELECT_PAUSED_SPECS}) OR task.id IN (SELECT task_id FROM preempted)) = ?11
"""

# How many are held because they were preempted, and by nothing that is paused.
COUNT_PREEMPTED: Final = f"""
SELECT COUNT(*) FROM preempted CROSS JOIN task ON task.id = preempted.task_id
WHERE task.spec NOT IN ({SELECT_PAUSED_SPECS})
"""

# Whether any is.
SELECT_ANY_PREEMPTED: Final = "SELECT task_id FROM preempted LIMIT 1"

# How many above the mark are held. Without an index that every submission would pay for: a walk along the tasks, but
# only while something is paused.
COUNT_PAUSED_ABOVE: Final = f"""
SELECT COUNT(*) FROM task
WHERE task.id > ?1 AND task.spec IN (SELECT value FROM json_each(?2))
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
    AND NOT EXISTS (SELECT 1 FROM lease WHERE lease.task_id = task.id)
    AND NOT {IS_BLOCKED} AND NOT {IS_WAITING}
"""

# The same at or below the mark, where only these are active.
COUNT_PAUSED_BELOW: Final = """
SELECT COUNT(*) FROM (SELECT task_id FROM straggler UNION SELECT task_id FROM delayed) AS old
CROSS JOIN task ON task.id = old.task_id
WHERE task.id <= ?1 AND task.spec IN (SELECT value FROM json_each(?2))
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
    AND NOT EXISTS (SELECT 1 FROM lease WHERE lease.task_id = task.id)
"""
