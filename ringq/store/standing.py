"""Store: how groups, domains, kinds and the whole stand - what was said of them, what waits, what runs."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final

from ringq.store.keys import SELECT_WAITING
from ringq.store.pauses import DOMAIN
from ringq.store.tasks import SELECT_LOW_WATER

# What was said of everything of one scope.
SELECT_SAID: Final = """
SELECT said.name, control.max_concurrency, control.weight, control.min_slots, pause.since_us, pause.resume_at_us
FROM (SELECT name FROM control WHERE scope = ?1 UNION SELECT name FROM pause WHERE scope = ?1) AS said
LEFT JOIN control ON control.scope = ?1 AND control.name = said.name
LEFT JOIN pause ON pause.scope = ?1 AND pause.name = said.name
ORDER BY said.name
"""

# Whether it is paused.
SELECT_PAUSE: Final = "SELECT 1 FROM pause WHERE scope = ? AND name = ?"

# What the last workers reported.
SELECT_REPORTS: Final = "SELECT report FROM registry"

# The numbers of the specs of some names, for each scope.
SELECT_SPECS_OF_GROUP: Final = """
SELECT id, group_name FROM spec WHERE group_name IN (SELECT value FROM json_each(?))
"""
SELECT_SPECS_OF_KIND: Final = """
SELECT spec.id, kind.name FROM spec JOIN kind ON kind.id = spec.kind
WHERE kind.name IN (SELECT value FROM json_each(?))
"""
SELECT_SPECS_OF_DOMAIN: Final = f"""
SELECT spec.id, {DOMAIN} FROM spec JOIN kind ON kind.id = spec.kind
WHERE {DOMAIN} IN (SELECT value FROM json_each(?))
"""
SPECS_OF: Final = {"group": SELECT_SPECS_OF_GROUP, "kind": SELECT_SPECS_OF_KIND, "domain": SELECT_SPECS_OF_DOMAIN}

# Tasks above the mark by their specs: a walk along them, of 0.2 s for 10^6. To look for the receipt of each would
# double it; those are few, and counted by themselves.
COUNT_OF_SPECS_ABOVE: Final = """
SELECT task.spec, COUNT(*) FROM task
WHERE task.id > ?1 AND task.spec IN (SELECT value FROM json_each(?2))
GROUP BY task.spec
"""

# Those of them that have ended.
COUNT_ENDED_OF_SPECS: Final = """
SELECT task.spec, -COUNT(*) FROM receipt CROSS JOIN task ON task.id = receipt.task_id
WHERE receipt.task_id > ?1 AND task.spec IN (SELECT value FROM json_each(?2))
GROUP BY task.spec
"""

# At or below the mark only these are active.
COUNT_ACTIVE_BELOW: Final = """
SELECT task.spec, COUNT(*) FROM (SELECT task_id FROM straggler UNION SELECT task_id FROM delayed) AS old
CROSS JOIN task ON task.id = old.task_id
WHERE task.id <= ?1 AND task.spec IN (SELECT value FROM json_each(?2))
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
GROUP BY task.spec
"""

# What has been running for a while.
COUNT_RUNNING_OF_SPECS: Final = """
SELECT task.spec, COUNT(*) FROM lease CROSS JOIN task ON task.id = lease.task_id
WHERE task.spec IN (SELECT value FROM json_each(?1))
    AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = lease.task_id)
GROUP BY task.spec
"""

Row = tuple[Any, ...]


class Standing:
    """Statements that only read, on the snapshot of `Questions`."""

    def __init__(self, rows: Callable[..., list[Row]]) -> None:
        """`rows` gives the rows of a statement with its parameters."""
        self._rows = rows

    def is_paused(self, scope: str, name: str) -> bool:
        """Whether it is paused."""
        return bool(self._rows(SELECT_PAUSE, scope, name))

    def waiting(self, task_id: int) -> Row | None:
        """As `KeyTables.waiting`."""
        rows = self._rows(SELECT_WAITING, task_id)
        return rows[0] if rows else None

    def said(self, scope: str) -> dict[str, Row]:
        """By name what was said: (max_concurrency, weight, min_slots, paused since, until) in Unix microseconds."""
        return {row[0]: row[1:] for row in self._rows(SELECT_SAID, scope)}

    def reports(self) -> list[dict[str, Any]]:
        """What the last workers reported of their kinds."""
        return [json.loads(text) for (text,) in self._rows(SELECT_REPORTS)]

    def active(self, scope: str, names: Collection[str]) -> dict[str, tuple[int, int]]:
        """By name how many tasks wait and how many have been running for a while; without those that have none."""
        specs: dict[int, str] = dict(self._rows(SPECS_OF[scope], json.dumps(list(names))))
        if not specs:
            return {}
        wanted, mark = json.dumps(list(specs)), self._rows(SELECT_LOW_WATER)[0][0]
        active: Counter[str] = Counter()
        running: Counter[str] = Counter()
        for statement in (COUNT_OF_SPECS_ABOVE, COUNT_ENDED_OF_SPECS, COUNT_ACTIVE_BELOW):
            for spec, count in self._rows(statement, mark, wanted):
                active[specs[spec]] += count
        for spec, count in self._rows(COUNT_RUNNING_OF_SPECS, wanted):
            running[specs[spec]] += count
        return {name: (count - running[name], running[name]) for name, count in active.items()}
