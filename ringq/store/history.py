"""Store: how tasks ended - receipts, the attempts before them, and the sums kept over both."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from ringq.model import GIVEN_BACK, Status
from ringq.receipts import Head, ReceiptRow, alike
from ringq.store.session import Rows, statements
from ringq.store.tasks import TaskTables

RECEIPT_COLUMNS: Final = (
    "task_id",
    "lease",
    "kind",
    "attempt",
    "status",
    "reason",
    "ended_us",
    "duration_us",
    "worker",
    "cpu_us",
    "rss_kib",
    "result",
    "error",
)

GIVEN_BACK_KEPT: Final = 100
GIVEN_BACK_CODES: Final = json.dumps([reason.code for reason in GIVEN_BACK])
OWN: Final = itemgetter(0, 1, 6, 7, 8, 9, 10, 11, 12)  # of those, what a completed task does not share with others

# The one terminal receipt of a task.
INTO_RECEIPT: Final = """
INSERT INTO receipt
    (task_id, lease, kind, attempt, status, reason, ended_us, duration_us,
    worker, cpu_us, rss_kib, result, error)
VALUES
"""
RECEIPT: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# The same for completed tasks: ?1 to ?4 are the kind, attempt, status and reason they have in common.
COMPLETED: Final = "(?{}, ?{}, ?1, ?2, ?3, ?4, ?{}, ?{}, ?{}, ?{}, ?{}, ?{}, ?{})"

# A second one changes nothing: the WHERE of its conflict is never true, and evaluating it tells us of the row,
# which DO NOTHING would not.
ON_CONFLICT: Final = """
ON CONFLICT (task_id) DO UPDATE SET lease = receipt.lease
WHERE ringq_conflict(excluded.task_id, excluded.lease, receipt.lease)
"""

# An attempt that did not end its task; the lease makes recording it twice harmless.
INSERT_ATTEMPT: Final = """
INSERT INTO attempt
    (task_id, lease, kind, attempt, reason, ended_us, duration_us, worker, cpu_us, rss_kib, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (task_id, lease) DO NOTHING
"""

# Attempts of a task that were given back, without the first of all and without the newest ones.
SELECT_SURPLUS: Final = """
SELECT task_id, lease FROM attempt
WHERE task_id = ?1 AND reason IN (SELECT value FROM json_each(?3))
    AND lease > (SELECT MIN(lease) FROM attempt WHERE task_id = ?1)
ORDER BY lease DESC LIMIT -1 OFFSET ?2
"""

# Forgets an attempt, and what it printed.
DELETE_ATTEMPT: Final = "DELETE FROM attempt WHERE task_id = ? AND lease = ?"
DELETE_OUTPUT: Final = "DELETE FROM output WHERE task_id = ? AND lease = ?"

# What an attempt printed; a second account of the same attempt changes nothing.
INSERT_OUTPUT: Final = """
INSERT INTO output (task_id, lease, head, tail, dropped_bytes) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (task_id, lease) DO NOTHING
"""

# Sums per kind and status, so that reading them costs nothing.
ADD_STATISTIC: Final = """
INSERT INTO statistic (kind, status, count, duration_us, duration_max_us) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (kind, status) DO UPDATE SET
    count = count + excluded.count,
    duration_us = duration_us + excluded.duration_us,
    duration_max_us = MAX(duration_max_us, excluded.duration_max_us)
"""

# What those who wait for tasks want to know.
SELECT_RECEIPTS: Final = """
SELECT task_id, status, reason, result, error FROM receipt
WHERE task_id BETWEEN ? AND ? ORDER BY task_id LIMIT ?
"""

# Whether the end of this attempt is on record, or the task has ended otherwise, or was purged since.
SELECT_IS_RECORDED: Final = """
SELECT EXISTS (SELECT 1 FROM receipt WHERE task_id = ?1)
    OR EXISTS (SELECT 1 FROM attempt WHERE task_id = ?1 AND lease = ?2)
    OR NOT EXISTS (SELECT 1 FROM task WHERE id = ?1)
"""

# Tasks above the mark, ended or not.
COUNT_TASKS_ABOVE: Final = "SELECT COUNT(*) FROM task WHERE id > ?"

# How many of those have ended.
COUNT_RECEIPTS_ABOVE: Final = "SELECT COUNT(*) FROM receipt WHERE task_id > ?"

# Active tasks the mark has passed because their time has not come.
COUNT_DELAYED_BELOW: Final = "SELECT COUNT(*) FROM delayed WHERE task_id <= ?"

# Active tasks the mark has passed for another reason.
COUNT_STRAGGLERS: Final = "SELECT COUNT(*) FROM straggler"

# Tasks whose time has not come.
COUNT_DELAYED: Final = "SELECT COUNT(*) FROM delayed"


@cache
def into_receipt(count: int) -> str:
    """The statement for the receipts of so many completed tasks."""
    own = (range(first, first + 9) for first in range(5, 5 + 9 * count, 9))
    return INTO_RECEIPT + ", ".join(COMPLETED.format(*numbers) for numbers in own) + ON_CONFLICT


class HistoryTables(TaskTables):
    """Statements about ends. Those that write belong into `transaction()`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._conflicts: list[tuple[int, int, int]] = []
        self._driver.create_function("ringq_conflict", 3, self._note_conflict)

    def insert_receipts(self, rows: Sequence[ReceiptRow]) -> list[tuple[ReceiptRow, int]]:
        """Insert receipts with RECEIPT_COLUMNS; the rows that were not, each with its task's stored lease.

        An equal lease is a replay after a crash between COMMIT and freeing the slot; another lease is stale.
        Of several receipts of one task that are alike the first counts.
        """
        self._conflicts.clear()
        groups = alike(rows)
        for head, group in groups.items():
            self._insert_alike_receipts(head, group)
        refused = self._refused(list(chain.from_iterable(groups.values()))) if self._conflicts else []
        if self._stragglers:
            ended = self._stragglers.intersection([row[0] for row in rows])
            if ended:
                self._delete_stragglers(ended)
        return refused

    def _insert_alike_receipts(self, head: Head, rows: Sequence[ReceiptRow]) -> None:
        if head[2] != Status.COMPLETED.code:
            self._write(INTO_RECEIPT + RECEIPT + ON_CONFLICT, rows)
            return
        for start, count in statements(len(rows)):
            own = map(OWN, rows[start : start + count])
            self._execute(into_receipt(count), (*head, *chain.from_iterable(own)))

    def insert_attempts(self, rows: Rows) -> int:
        """Record attempts that did not end their task; how many were not there yet.

        Columns: task_id, lease, kind, attempt, reason, ended_us, duration_us, worker, cpu_us, rss_kib, error.
        """
        return self._write(INSERT_ATTEMPT, rows)

    def prune_attempts(self, task_ids: Iterable[int]) -> None:
        """Forget all but the newest GIVEN_BACK_KEPT attempts of each of these tasks that were given back.

        There is no limit to them, and they are not counted. The task's first attempt stays: a time to live may begin
        with it.
        """
        for task_id in task_ids:
            rows = self._read(SELECT_SURPLUS, (task_id, GIVEN_BACK_KEPT, GIVEN_BACK_CODES))
            self._write(DELETE_ATTEMPT, rows)
            self._write(DELETE_OUTPUT, rows)

    def insert_outputs(self, rows: Rows) -> None:
        """Keep what attempts printed: (task_id, lease, first bytes, last bytes, bytes dropped between them)."""
        self._write(INSERT_OUTPUT, rows)

    def add_statistics(self, sums: Mapping[tuple[int, int], tuple[int, int, int]]) -> None:
        """Add {(kind, status): (count, total, longest duration in us)} of receipts that were inserted."""
        self._write(ADD_STATISTIC, [(*key, *values) for key, values in sums.items()])

    def find_receipts(
        self, ranges: Sequence[tuple[int, int]], limit: int, bytes_max: int = sys.maxsize
    ) -> list[tuple[int, int, int, str | None, str | None]]:
        """(task_id, status, reason, result, error) of ended tasks, range by range.

        At most `limit` in all, and none behind the one with which their results and errors reach `bytes_max`.
        """
        found: list[tuple[int, int, int, str | None, str | None]] = []
        size = 0
        for first, last in ranges:
            for row in self._each(SELECT_RECEIPTS, (first, last, limit - len(found))):
                found.append(row)
                size += len(row[3] or "") + len(row[4] or "")
                if size >= bytes_max:
                    return found
            if len(found) >= limit:
                break
        return found

    def is_recorded(self, task_id: int, lease: int) -> bool:
        """Whether nothing is left to record of this attempt: its end is known, or its task has ended or is purged."""
        return bool(self._read_one(SELECT_IS_RECORDED, (task_id, lease))[0])

    def count_active(self) -> int:
        """Tasks without a receipt, delayed ones included."""
        mark = (self.low_water,)
        above = self._read_one(COUNT_TASKS_ABOVE, mark)[0] - self._read_one(COUNT_RECEIPTS_ABOVE, mark)[0]
        below = self._read_one(COUNT_DELAYED_BELOW, mark)[0] + self._read_one(COUNT_STRAGGLERS)[0]
        return int(above + below)

    def count_delayed(self) -> int:
        """Tasks whose time has not come."""
        return int(self._read_one(COUNT_DELAYED)[0])

    def _note_conflict(self, task_id: int, lease: int, stored: int) -> int:
        """Called by SQLite for a receipt whose task has a receipt; 0: leave that as it is."""
        self._conflicts.append((task_id, lease, stored))
        return 0

    def _refused(self, rows: Sequence[ReceiptRow]) -> list[tuple[ReceiptRow, int]]:
        # Conflicts came in the order of the rows. From the end, because of equal rows the first went in.
        refused = []
        for row in reversed(rows):
            if self._conflicts and self._conflicts[-1][:2] == row[:2]:
                refused.append((row, self._conflicts.pop()[2]))
        return refused[::-1]
