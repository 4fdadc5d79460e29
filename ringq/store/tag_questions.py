"""Store: which active tasks have which tags; part of `questions`.

Active tasks lie above the low-water mark, or are known one by one. So however many have ended with a tag, those that
have not are a range at the end of its part of the index. An answer goes from one statement to the next as JSON text.
"""

# ruff: noqa: S608 - statements are put together from the constants of this module; values are always bound

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from ringq.store.filters import LAST
from ringq.store.held import IS_BLOCKED, IS_WAITING
from ringq.store.pauses import SELECT_PAUSED_SPECS
from ringq.store.standing import SELECT_SPECS_OF_DOMAIN
from ringq.store.tasks import SELECT_LOW_WATER

# What may be active at or below the mark ?1.
OLD: Final = """(
    SELECT task_id FROM straggler WHERE task_id <= ?1 UNION SELECT task_id FROM delayed WHERE task_id <= ?1) AS old"""
NOT_ENDED: Final = "NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = tag.task_id)"

# Active tasks with a tag.
SELECT_TAGGED: Final = f"""
SELECT json_group_array(task_id) FROM (
    SELECT tag.task_id FROM tag WHERE tag.key = ?2 AND tag.value = ?3 AND tag.task_id > ?1 AND {NOT_ENDED}
    UNION ALL
    SELECT tag.task_id FROM {OLD}
    CROSS JOIN tag ON tag.task_id = old.task_id AND tag.key = ?2 AND tag.value = ?3 WHERE {NOT_ENDED})
"""

# The same with a tag of keys from one to another; several times if they have several.
SELECT_KEYED: Final = f"""
SELECT json_group_array(task_id) FROM (
    SELECT tag.task_id FROM tag WHERE tag.key BETWEEN ?2 AND ?3 AND tag.task_id > ?1 AND {NOT_ENDED}
    UNION ALL
    SELECT tag.task_id FROM {OLD}
    CROSS JOIN tag ON tag.task_id = old.task_id AND tag.key BETWEEN ?2 AND ?3 WHERE {NOT_ENDED})
"""

# The same with one of these specs, whatever their tags.
SELECT_OF_SPECS: Final = f"""
SELECT json_group_array(id) FROM (
    SELECT task.id FROM task WHERE task.id > ?1 AND task.spec IN (SELECT value FROM json_each(?2))
        AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id)
    UNION ALL
    SELECT task.id FROM {OLD} CROSS JOIN task ON task.id = old.task_id
    WHERE task.spec IN (SELECT value FROM json_each(?2))
        AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = task.id))
"""

# Of some tasks those that have another tag as well. Put into one statement with the first, as conditions upon each row,
# it would be a statement for each number of tags.
SELECT_ALSO_TAGGED: Final = """
SELECT json_group_array(tag.task_id) FROM json_each(?1) AS led
CROSS JOIN tag ON tag.task_id = led.value AND tag.key BETWEEN ?2 AND ?3 AND (?4 IS NULL OR tag.value = ?4)
"""

# … one of these specs.
SELECT_ALSO_OF_SPECS: Final = """
SELECT json_group_array(task.id) FROM json_each(?1) AS led
CROSS JOIN task ON task.id = led.value AND task.spec IN (SELECT value FROM json_each(?2))
"""

# … this status.
SELECT_ALSO_OF_STATUS: Final = f"""
SELECT json_group_array(task.id) FROM json_each(?1) AS led CROSS JOIN task ON task.id = led.value
WHERE ?2 = CASE
    WHEN {IS_WAITING} THEN 3 WHEN EXISTS (SELECT 1 FROM lease WHERE lease.task_id = task.id) THEN 1
    WHEN {IS_BLOCKED} THEN 4
    WHEN task.spec IN ({SELECT_PAUSED_SPECS}) THEN 2
    WHEN EXISTS (SELECT 1 FROM preempted WHERE preempted.task_id = task.id) THEN 2 ELSE 0 END
"""

# How often some tasks have which value of a tag.
SELECT_VALUES_OF: Final = """
SELECT tag.value, COUNT(*) FROM json_each(?1) AS led CROSS JOIN tag ON tag.task_id = led.value AND tag.key = ?2
GROUP BY tag.value
"""

# How many tasks above the mark have a tag, ended or not: from the index alone, a fifth of looking for each receipt.
COUNT_TAGGED_ABOVE: Final = "SELECT COUNT(*) FROM tag WHERE key = ?2 AND value = ?3 AND task_id > ?1"
SELECT_VALUES_ABOVE: Final = "SELECT value, COUNT(*) FROM tag WHERE key = ?2 AND task_id > ?1 GROUP BY value"

# The first values of a key, each found from the one before: mostly there are few of them among many rows.
VALUES: Final = """
WITH RECURSIVE known (value) AS (
    SELECT MIN(value) FROM tag WHERE key = ?2
    UNION ALL
    SELECT (SELECT MIN(tag.value) FROM tag WHERE tag.key = ?2 AND tag.value > known.value)
    FROM known WHERE known.value IS NOT NULL
    LIMIT ?3)"""

# As SELECT_VALUES_ABOVE, value by value: no row of those that have ended below the mark is read.
SELECT_FEW_VALUES_ABOVE: Final = f"""{VALUES}
SELECT value, (SELECT COUNT(*) FROM tag WHERE tag.key = ?2 AND tag.value = known.value AND tag.task_id > ?1)
FROM known WHERE value IS NOT NULL
"""

# How many tasks above the mark have ended, as far as one wants to count, and how often those have which value.
COUNT_ENDED_ABOVE: Final = "SELECT COUNT(*) FROM (SELECT 1 FROM receipt WHERE task_id > ?1 LIMIT ?2)"
SELECT_ENDED_VALUES: Final = """
SELECT tag.value, -COUNT(*) FROM receipt CROSS JOIN tag ON tag.task_id = receipt.task_id AND tag.key = ?2
WHERE receipt.task_id > ?1 GROUP BY tag.value
"""

# Where those are many.
SELECT_FEW_ACTIVE_VALUES: Final = f"""{VALUES}
SELECT value, (
    SELECT COUNT(*) FROM tag WHERE tag.key = ?2 AND tag.value = known.value AND tag.task_id > ?1 AND {NOT_ENDED})
FROM known WHERE value IS NOT NULL
"""
SELECT_ACTIVE_VALUES: Final = f"""
SELECT value, COUNT(*) FROM tag WHERE key = ?2 AND task_id > ?1 AND {NOT_ENDED} GROUP BY value
"""

# How often active tasks at or below the mark have which value.
SELECT_OLD_VALUES: Final = f"""
SELECT tag.value, COUNT(*) FROM {OLD} CROSS JOIN tag ON tag.task_id = old.task_id AND tag.key = ?2
WHERE {NOT_ENDED} GROUP BY tag.value
"""

# The first and the last key of some.
SELECT_ENDS_OF_KEYS: Final = """
SELECT (SELECT MIN(key) FROM tag WHERE key BETWEEN ?1 AND ?2), (SELECT MAX(key) FROM tag WHERE key BETWEEN ?1 AND ?2)
"""

# Keys of tags that active tasks at or below the mark have.
SELECT_OLD_KEYS: Final = f"""
SELECT DISTINCT tag.key FROM {OLD} CROSS JOIN tag ON tag.task_id = old.task_id AND tag.key BETWEEN ?2 AND ?3
CROSS JOIN task ON task.id = tag.task_id
WHERE {NOT_ENDED} AND (?4 IS NULL OR task.spec IN (SELECT value FROM json_each(?4)))
"""

# Whether an active task above the mark has a tag of this key.
SELECT_HAS_KEY: Final = f"""
SELECT 1 FROM tag CROSS JOIN task ON task.id = tag.task_id
WHERE tag.key = ?2 AND tag.task_id > ?1 AND {NOT_ENDED}
    AND (?3 IS NULL OR task.spec IN (SELECT value FROM json_each(?3)))
LIMIT 1
"""

# The same value by value, for some of them.
SELECT_HAS_KEY_SOON: Final = f"""{VALUES}
SELECT 1 FROM known CROSS JOIN tag ON tag.key = ?2 AND tag.value = known.value AND tag.task_id > ?1
CROSS JOIN task ON task.id = tag.task_id
WHERE {NOT_ENDED} AND (?4 IS NULL OR task.spec IN (SELECT value FROM json_each(?4)))
LIMIT 1
"""

# How many tasks above the mark have a tag, as far as one wants to count.
COUNT_UP_TO: Final = """
SELECT COUNT(*) FROM (
    SELECT 1 FROM tag WHERE key = ?2 AND value = ?3 AND task_id > ?1 LIMIT ?4)
"""

FEW_VALUES: Final = 1_000  # of a key: 1 ms
COUNTED: Final = 10_000  # for which of several tags shall lead: 1 ms

Row = tuple[Any, ...]
Wanted = tuple[str, str, str | None]
"""The first and the last key that will do, and the value; None for any."""


class TagQuestions:
    """Statements that only read, on the snapshot of `Questions`."""

    def __init__(self, rows: Callable[..., list[Row]], keys: Callable[[str], list[str]]) -> None:
        """`rows` gives the rows of a statement with its parameters; `keys`, all keys that begin so, in order."""
        self._rows = rows
        self._all_keys = keys
        self._mark = int(rows(SELECT_LOW_WATER)[0][0])

    def specs_of(self, domain: str) -> str:
        """The numbers of the specs of a domain, as a JSON array."""
        return json.dumps([number for number, _ in self._rows(SELECT_SPECS_OF_DOMAIN, json.dumps([domain]))])

    def ids(self, wanted: Sequence[Wanted], specs: str | None, status: int | None) -> list[int]:
        """The active tasks that have all these tags, one of these specs and this status, in order."""
        text = self._led(wanted, specs)
        if status is not None:
            text = self._one(SELECT_ALSO_OF_STATUS, text, status)
        return sorted(set(json.loads(text)))

    def count(self, wanted: Sequence[Wanted], specs: str | None, status: int | None) -> int:
        """How many those are."""
        if len(wanted) == 1 and specs is None and status is None:
            first, last, value = wanted[0]
            first, last = (first, last) if first == last else self._rows(SELECT_ENDS_OF_KEYS, first, last)[0]
            if first is None:
                return 0
            if first == last:
                return self._count(first, value)
        return len(self.ids(wanted, specs, status))

    def values(self, key: str, specs: str | None) -> list[tuple[str, int]]:
        """(value, number of active tasks) of a tag, the most frequent first."""
        if specs is None:
            found = self._values(key)
        else:
            found = Counter(dict(self._rows(SELECT_VALUES_OF, self._led([(key, key, None)], specs), key)))
        return sorted(((value, count) for value, count in found.items() if count), key=lambda pair: (-pair[1], pair[0]))

    def keys(self, prefix: str, specs: str | None) -> list[str]:
        """The keys of tags of active tasks that begin so, in order."""
        old = {row[0] for row in self._rows(SELECT_OLD_KEYS, self._mark, prefix, prefix + LAST, specs)}
        return [key for key in self._all_keys(prefix) if key in old or self._is_above(key, specs)]

    def _led(self, wanted: Sequence[Wanted], specs: str | None) -> str:
        """The active tasks with these tags and specs, as a JSON array; some of them several times."""
        if not wanted:
            return "[]" if specs is None else str(self._one(SELECT_OF_SPECS, self._mark, specs))
        (first, last, value), *others = self._rarest_first(wanted)
        if value is None:
            text: str = self._one(SELECT_KEYED, self._mark, first, last)
        else:
            text = self._one(SELECT_TAGGED, self._mark, first, value)
        for other in others:
            text = self._one(SELECT_ALSO_TAGGED, text, *other)
        return text if specs is None else self._one(SELECT_ALSO_OF_SPECS, text, specs)

    def _rarest_first(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        if len(wanted) == 1:
            return list(wanted)
        rarest, least = wanted[0], COUNTED
        for one in wanted:
            key, _, value = one
            count = least if value is None else int(self._one(COUNT_UP_TO, self._mark, key, value, least))
            if count < least or rarest[2] is None:
                rarest, least = one, count
        return [rarest, *(one for one in wanted if one is not rarest)]

    def _count(self, key: str, value: str | None) -> int:
        if value is None:
            return sum(self._values(key).values())
        above = int(self._one(COUNT_TAGGED_ABOVE, self._mark, key, value))
        if not self._fewer_ended(above):
            return len(json.loads(self._one(SELECT_TAGGED, self._mark, key, value)))
        rest: Counter[str] = Counter(dict(self._rows(SELECT_ENDED_VALUES, self._mark, key)))
        rest.update(dict(self._rows(SELECT_OLD_VALUES, self._mark, key)))
        return above + rest[value]

    def _values(self, key: str) -> Counter[str]:
        found: Counter[str] = Counter(dict(self._rows(SELECT_OLD_VALUES, self._mark, key)))
        above = self._rows(SELECT_FEW_VALUES_ABOVE, self._mark, key, FEW_VALUES)
        are_few = len(above) < FEW_VALUES
        if not are_few:
            above = self._rows(SELECT_VALUES_ABOVE, self._mark, key)
        if self._fewer_ended(sum(count for _, count in above)):
            found.update(dict(above))
            found.update(dict(self._rows(SELECT_ENDED_VALUES, self._mark, key)))
        elif are_few:
            found.update(dict(self._rows(SELECT_FEW_ACTIVE_VALUES, self._mark, key, FEW_VALUES)))
        else:
            found.update(dict(self._rows(SELECT_ACTIVE_VALUES, self._mark, key)))
        return found

    def _is_above(self, key: str, specs: str | None) -> bool:
        soon = self._rows(SELECT_HAS_KEY_SOON, self._mark, key, FEW_VALUES, specs)
        return bool(soon or self._rows(SELECT_HAS_KEY, self._mark, key, specs))

    def _fewer_ended(self, count: int) -> bool:
        """Whether fewer than that have ended above the mark, so that they are the ones to look at."""
        return bool(self._one(COUNT_ENDED_ABOVE, self._mark, count) < count)

    def _one(self, statement: str, *parameters: object) -> Any:
        return self._rows(statement, *parameters)[0][0]
