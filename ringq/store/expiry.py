"""Store: when tasks may not begin any more."""

from __future__ import annotations

from typing import Final

from ringq.store.cancels import CancelTables
from ringq.store.session import Rows

# The task may not begin after that.
INSERT_EXPIRY: Final = """
INSERT INTO expiry (expires_us, task_id) VALUES (?, ?) ON CONFLICT (expires_us, task_id) DO NOTHING
"""

# What is over, the longest first.
SELECT_EXPIRING: Final = (
    "SELECT expires_us, task_id FROM expiry WHERE expires_us <= ? ORDER BY expires_us, task_id LIMIT ?"
)

# When the loop must look again.
SELECT_NEXT_EXPIRY: Final = "SELECT expires_us FROM expiry ORDER BY expires_us, task_id LIMIT 1"

# Has been seen to.
DELETE_EXPIRY: Final = "DELETE FROM expiry WHERE expires_us = ? AND task_id = ?"

# Where a part of them ends that is looked through.
SELECT_EXPIRY_AFTER: Final = """
SELECT expires_us, task_id FROM expiry
WHERE (expires_us, task_id) > (?1, ?2) ORDER BY expires_us, task_id LIMIT 1 OFFSET ?3
"""

# Of such a part, what means nothing any more: the task has ended for good, or is gone. A dead letter may live again.
DELETE_VAIN_EXPIRIES: Final = """
DELETE FROM expiry
WHERE (expires_us, task_id) > (?1, ?2) AND (expires_us, task_id) <= (?3, ?4)
    AND (EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = expiry.task_id AND receipt.status <> 12)
        OR NOT EXISTS (SELECT 1 FROM task WHERE task.id = expiry.task_id))
"""

# From when on a task's time to live counts: its submission, and its first attempt.
SELECT_BEGINNINGS: Final = """
SELECT task.submitted_us, (SELECT MIN(ended_us - duration_us) FROM attempt WHERE attempt.task_id = task.id)
FROM task WHERE task.id = ?
"""

FIRST: Final = (-1, -1)
LAST: Final = ((1 << 63) - 1, (1 << 63) - 1)


class ExpiryTables(CancelTables):
    """Statements about times to live. Those that write belong into `transaction()`."""

    _pruned_upto = FIRST

    def insert_expiries(self, rows: Rows) -> None:
        """These tasks may not begin after an instant, given as (expires_us, task_id)."""
        self._write(INSERT_EXPIRY, rows)

    def expiring(self, now_us: int, limit: int) -> list[tuple[int, int]]:
        """(expires_us, task_id) of what is over, the longest first."""
        return self._read(SELECT_EXPIRING, (now_us, limit))

    def next_expiry_us(self) -> int | None:
        """When the next one is over."""
        row = self._read_one(SELECT_NEXT_EXPIRY)
        return None if row is None else int(row[0])

    def delete_expiries(self, rows: Rows) -> None:
        """These have been seen to."""
        self._write(DELETE_EXPIRY, rows)

    def prune_expiries(self, span: int) -> int:
        """Forget the times of tasks that have ended, among the next `span` of all; how many those were.

        Each call goes on where the one before left off, and begins anew after the last. In the transaction of its
        receipt a task's row would have to be looked for, for each receipt of any task; so it stays a while.
        """
        row = self._read_one(SELECT_EXPIRY_AFTER, (*self._pruned_upto, span - 1))
        upto = LAST if row is None else row
        count = self._write(DELETE_VAIN_EXPIRIES, [(*self._pruned_upto, *upto)])
        self._pruned_upto = FIRST if row is None else row
        return count

    def expiry_of(self, task_id: int, spec: int) -> int | None:
        """When a task that has had an attempt may not begin any more; None if it always may."""
        row = self._rows[spec]
        if row.ttl_ms is None:
            return None
        return int(self._read_one(SELECT_BEGINNINGS, (task_id,))[row.ttl_from] + row.ttl_ms * 1000)
