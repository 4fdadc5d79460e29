"""Store: what people and dashboards may ask, answered by rows of a read-only connection. `query` gives them shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from ringq.bucket import RateRow
from ringq.model import Status
from ringq.store.belonging import Belonging
from ringq.store.callbacks import SELECT_CALLBACKS_OF, CallbackRow
from ringq.store.engine import READ_SECONDS_MAX, open_reader
from ringq.store.events import Kept
from ringq.store.failures import translated
from ringq.store.filters import LAST, asks_for_specs, specs_of, wanted_tags, whole_tag
from ringq.store.history import (
    COUNT_DELAYED_BELOW,
    COUNT_RECEIPTS_ABOVE,
    COUNT_STRAGGLERS,
    COUNT_TASKS_ABOVE,
)
from ringq.store.history_rows import (
    SELECT_HISTORY,
    SELECT_HISTORY_COMPLETED,
    SELECT_HISTORY_OF_KIND,
    SELECT_HISTORY_UNSUCCESSFUL,
)
from ringq.store.pauses import (
    COUNT_PAUSED_ABOVE,
    COUNT_PAUSED_BELOW,
    COUNT_PREEMPTED,
    SELECT_ANY_PREEMPTED,
    SELECT_PAUSED_SPECS,
)
from ringq.store.rates import SELECT_RATES
from ringq.store.schedules import SELECT_SCHEDULES, ScheduleRow
from ringq.store.standing import Standing
from ringq.store.submissions import SELECT_NAMES, SELECT_SPECS, SpecRow
from ringq.store.tag_questions import TagQuestions
from ringq.store.task_rows import (
    SELECT_BLOCKED_ROWS,
    SELECT_COMPLETED_ROWS,
    SELECT_FEW_TAGGED,
    SELECT_LED_ROWS,
    SELECT_PENDING_ROWS,
    SELECT_PENDING_ROWS_BELOW,
    SELECT_RUNNING_ROWS,
    SELECT_TAGGED_ROWS,
    SELECT_TASK_ROW,
    SELECT_TASK_ROWS,
    SELECT_UNSUCCESSFUL_ROWS,
    SELECT_WAITING_ROWS,
)
from ringq.store.tasks import SELECT_LOW_WATER
from ringq.tags import digest_of

FIRST: Final = (1 << 63) - 1  # larger than every id and time: where "newest first" begins

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

# All attempts of one task, the one that ended it included.
SELECT_ATTEMPTS: Final = """
SELECT attempt.task_id, kind.name, lease, attempt, status, reason, ended_us, duration_us,
    worker, cpu_us, rss_kib, error, (SELECT text FROM label WHERE label.task_id = ?1)
FROM attempt JOIN kind ON kind.id = attempt.kind WHERE task_id = ?1
UNION ALL
SELECT receipt.task_id, kind.name, lease, attempt, status, reason, ended_us, duration_us,
    worker, cpu_us, rss_kib, error, (SELECT text FROM label WHERE label.task_id = ?1)
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

# The sums that are kept per kind and status; of dead letters that were all given another chance nothing is left.
SELECT_STATISTICS: Final = """
SELECT kind.name, statistic.status, statistic.count, statistic.duration_us, statistic.duration_max_us
FROM statistic JOIN kind ON kind.id = statistic.kind
WHERE (?1 IS NULL OR kind.name IN (SELECT value FROM json_each(?1))) AND statistic.count > 0
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
SELECT said.name, max_workers, pause.name IS NOT NULL, retry, cooldown, throttled_until_us, retention, dead_retention,
    pause.since_us, pause.resume_at_us, defaults
FROM (SELECT name FROM queue UNION SELECT name FROM pause WHERE scope = 'queue') AS said
LEFT JOIN queue ON queue.name = said.name
LEFT JOIN pause ON pause.scope = 'queue' AND pause.name = said.name
ORDER BY said.name
"""

# Every kind that was ever submitted.
SELECT_KIND_NAMES: Final = "SELECT name FROM kind ORDER BY name"

# Keys of tags, each found from the one before: there are few of them among many rows.
SELECT_TAG_KEYS: Final = """
WITH RECURSIVE known (key) AS (
    SELECT MIN(key) FROM tag WHERE key BETWEEN ?1 AND ?2
    UNION ALL
    SELECT (SELECT MIN(tag.key) FROM tag WHERE tag.key > known.key AND tag.key <= ?2)
    FROM known WHERE known.key IS NOT NULL
)
SELECT key FROM known WHERE key IS NOT NULL
"""

# How often a tag has which value.
SELECT_TAG_VALUES: Final = """
SELECT value, COUNT(*) FROM tag WHERE key = ? GROUP BY value ORDER BY COUNT(*) DESC, value
"""

_LED_BY: Final = {  # the rows that lead to tasks of a status, and whose are few
    Status.COMPLETED: SELECT_COMPLETED_ROWS, Status.RUNNING: SELECT_RUNNING_ROWS,
    Status.BLOCKED: SELECT_BLOCKED_ROWS, Status.WAITING: SELECT_WAITING_ROWS,
}  # fmt: skip
FEW: Final = 10_000  # tasks looked at one by one: 20 ms

Row = tuple[Any, ...]


@contextmanager
def asking(path: Path, seconds: float = READ_SECONDS_MAX) -> Iterator[Questions]:
    """Open the database for the questions of one moment, which lasts so long: all of them see the same state."""
    with translated(path):
        connection = open_reader(path, seconds)
        try:
            connection.exec_driver_sql("BEGIN")
            yield Questions(connection)
        finally:
            connection.close()


class Questions:
    """Statements that only read, on one snapshot."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.standing = Standing(self._rows)
        self.timeline = Kept(self._rows, self._names)
        self.belonging = Belonging(self._rows)

    @property
    def active_tags(self) -> TagQuestions:
        """Questions about the tags of active tasks."""
        return TagQuestions(self._rows, self.tag_keys)

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

    def tasks(
        self, status: Status | None, kind: str | None, queue: str | None, before: int, limit: int, wanted: Any = None
    ) -> list[Row]:
        """Tasks with ids below `before`, newest first, in the columns of TASK_ROW.

        `wanted`: a `protocol.Selection` of which all but kind and queue counts.
        """
        kind = self._names(kind)
        given = (before, limit, kind, queue)
        more = (None,) * 5 if wanted is None else self._conditions(wanted)
        led = None if wanted is None else self._led(wanted, (*given, None if status is None else status.code, *more))
        if led is not None:
            return led
        if status in (Status.PENDING, Status.PAUSED):
            return self._pending(*given, more, is_paused=status is Status.PAUSED)
        sql = SELECT_TASK_ROWS if status is None else _LED_BY.get(status, SELECT_UNSUCCESSFUL_ROWS)
        code = status.code if status is not None and sql is SELECT_UNSUCCESSFUL_ROWS else None
        return self._rows(sql, *given, code, *more)

    def _pending(
        self, before: int, limit: int, kind: str | None, queue: str | None, more: tuple[Any, ...], *, is_paused: bool
    ) -> list[Row]:
        if is_paused and not self._rows(SELECT_PAUSED_SPECS) and not self._rows(SELECT_ANY_PREEMPTED):
            return []  # without a walk over all that is pending
        mark = self._count(SELECT_LOW_WATER)
        rows = self._rows(SELECT_PENDING_ROWS, before, limit, kind, queue, mark, *more, is_paused)
        if len(rows) < limit:
            rest = (before, limit - len(rows), kind, queue, mark, *more, is_paused)
            rows += self._rows(SELECT_PENDING_ROWS_BELOW, *rest)
        return rows

    def _led(self, wanted: Any, given: tuple[Any, ...]) -> list[Row] | None:
        """The tasks to which the index of tags leads; None if it does not."""
        tag = whole_tag(wanted)
        if tag is not None:
            return self._rows(SELECT_TAGGED_ROWS, *given, *tag)
        few = self._few_tagged(wanted)
        return None if few is None else self._rows(SELECT_LED_ROWS, *given, json.dumps(few))

    def _few_tagged(self, wanted: Any) -> list[int] | None:
        """The tasks with a tag of the keys that are wanted, the highest first; None if those are many, or any will do.

        A walk over all tasks finds the first of many soon, and is too long for the only one.
        """
        keys = [(key, key) for key, _ in wanted.tags or ()]
        if wanted.tag_prefix is not None:
            keys.append((wanted.tag_prefix, wanted.tag_prefix + LAST))
        for first, last in keys:
            found = self._rows(SELECT_FEW_TAGGED, first, last, FEW + 1)
            if len(found) <= FEW:
                return sorted({task_id for (task_id,) in found}, reverse=True)
        return None

    def _conditions(self, wanted: Any) -> tuple[Any, ...]:
        """Parameters 6 to 10 of TASK_FILTER."""
        specs = [(row[0], SpecRow(*row[1:])) for row in self._rows(SELECT_SPECS)] if asks_for_specs(wanted) else []
        digest = None if wanted.key is None else digest_of(wanted.key)
        times = (wanted.submitted_before_us, wanted.submitted_after_us)
        kinds = None if wanted.kind is None else json.loads(self._names(wanted.kind) or "")
        return specs_of(wanted, specs, kinds), *times, wanted_tags(wanted), digest

    def tag_keys(self, prefix: str) -> list[str]:
        """The keys of tags that begin so, in order."""
        return [row[0] for row in self._rows(SELECT_TAG_KEYS, prefix, prefix + LAST)]

    def tag_values(self, key: str) -> list[Row]:
        """(value, number of tasks) of a tag, the most frequent first."""
        return self._rows(SELECT_TAG_VALUES, key)

    def history(self, kind: str | None, status: Status | None, before: tuple[int, int], limit: int) -> list[Row]:
        """Ended tasks before (ended_us, task_id), what ended last first, in the columns of `history_rows`."""
        kind, given = self._names(kind), (*before, limit)
        if status is not None:
            sql = SELECT_HISTORY_COMPLETED if status is Status.COMPLETED else SELECT_HISTORY_UNSUCCESSFUL
            return self._rows(sql, *given, kind, status.code)
        if kind is not None:
            return self._rows(SELECT_HISTORY_OF_KIND, *given, kind)
        return self._rows(SELECT_HISTORY, *given)

    def statistics(self, kind: str | None) -> list[Row]:
        """(kind, status, count, total and longest duration in microseconds)."""
        return self._rows(SELECT_STATISTICS, self._names(kind))

    def counts(self) -> tuple[int, int, list[Row]]:
        """Active tasks; those of them that run; (status, count) of those that ended."""
        mark = self._count(SELECT_LOW_WATER)
        above = self._count(COUNT_TASKS_ABOVE, mark) - self._count(COUNT_RECEIPTS_ABOVE, mark)
        below = self._count(COUNT_DELAYED_BELOW, mark) + self._count(COUNT_STRAGGLERS)
        return above + below, self._count(COUNT_RUNNING), self._rows(SELECT_ENDED_COUNTS)

    def paused(self) -> int:
        """How many active tasks that do not run are held, by a pause or because they were preempted."""
        preempted = self._count(COUNT_PREEMPTED)
        specs = json.dumps([row[0] for row in self._rows(SELECT_PAUSED_SPECS)])
        if specs == "[]":
            return preempted
        given = (self._count(SELECT_LOW_WATER), specs)
        return preempted + self._count(COUNT_PAUSED_ABOVE, *given) + self._count(COUNT_PAUSED_BELOW, *given)

    def delayed(self, now_us: int) -> int:
        """How many tasks wait for their time."""
        return self._count(COUNT_NOT_DUE, now_us)

    def queues(self) -> list[Row]:
        """Queues of which something was said, in the columns of SELECT_QUEUE_ROWS."""
        return self._rows(SELECT_QUEUE_ROWS)

    def rates(self) -> list[RateRow]:
        """All rate limits, by scope."""
        return list(map(RateRow._make, self._rows(SELECT_RATES)))

    def callback(self, task_id: int) -> CallbackRow | None:
        """How the task is completed from outside, if it is."""
        rows = self._rows(SELECT_CALLBACKS_OF, json.dumps([task_id]))
        return CallbackRow._make(rows[0]) if rows else None

    def schedules(self) -> list[ScheduleRow]:
        """All schedules, by name."""
        return list(map(ScheduleRow._make, self._rows(SELECT_SCHEDULES)))

    def kinds(self) -> list[str]:
        """The names of all kinds."""
        return [row[0] for row in self._rows(SELECT_KIND_NAMES)]

    def _names(self, kind: str | None) -> str | None:
        """All names of a kind, as a JSON array."""
        return None if kind is None else json.dumps([row[0] for row in self._rows(SELECT_NAMES, kind)] or [kind])

    def _rows(self, sql: str, *parameters: object) -> list[Row]:
        return [tuple(row) for row in self._connection.exec_driver_sql(sql, parameters)]

    def _count(self, sql: str, *parameters: object) -> int:
        return int(self._connection.exec_driver_sql(sql, parameters).scalar_one())
