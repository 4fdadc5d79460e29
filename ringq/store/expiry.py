"""Store: when tasks may not begin any more."""

from __future__ import annotations

from collections.abc import Sequence
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

# From when on a task's time to live counts: its submission, and its first attempt; or those of its latest life.
SELECT_BEGINNINGS: Final = """
SELECT COALESCE(renewed.since_us, task.submitted_us), COALESCE((
    SELECT MIN(ended_us - duration_us) FROM attempt
    WHERE attempt.task_id = task.id AND ended_us - duration_us >= COALESCE(renewed.since_us, 0)
), renewed.since_us)
FROM task LEFT JOIN renewed ON renewed.task_id = task.id WHERE task.id = ?
"""

# It counts anew.
INSERT_RENEWED: Final = """
INSERT INTO renewed (task_id, since_us) VALUES (?, ?) ON CONFLICT (task_id) DO UPDATE SET since_us = excluded.since_us
"""


class ExpiryTables(CancelTables):
    """Statements about times to live. Those that write belong into `transaction()`."""

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

    def renew_ttl(self, task_ids: Sequence[int], now_us: int) -> bool:
        """The time to live of these tasks, which were dead letters, counts from now on; whether any has one."""
        renewed, over, ends = [], [], []
        for task_id, spec in self.specs_of(task_ids):
            end, row = self.expiry_of(task_id, spec), self._rows[spec]
            if end is not None and row.ttl_ms is not None:
                renewed.append((task_id, now_us))
                over.append((end, task_id))
                if not row.ttl_from:
                    ends.append((now_us + row.ttl_ms * 1000, task_id))
        self._write(INSERT_RENEWED, renewed)
        self.delete_expiries(over)
        self.insert_expiries(ends)
        return bool(renewed)

    def expiry_of(self, task_id: int, spec: int) -> int | None:
        """When a task that has had an attempt may not begin any more; None if it always may."""
        row = self._rows[spec]
        if row.ttl_ms is None:
            return None
        return int(self._read_one(SELECT_BEGINNINGS, (task_id,))[row.ttl_from] + row.ttl_ms * 1000)
