"""Store: when tasks may not begin any more."""

from __future__ import annotations

import json
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

# A dead letter that lives again: when it was over in its first life does not matter any more. Reads the whole table,
# once for all that an operator retries with one request: an index by task would be paid for by every task.
DELETE_EXPIRIES_OF: Final = "DELETE FROM expiry WHERE task_id IN (SELECT value FROM json_each(?))"

# From when on a task's time to live counts: its submission, and its first attempt. Of a dead letter that lives again
# both are the first attempt since.
SELECT_BEGINNINGS: Final = """
SELECT CASE WHEN died IS NULL THEN submitted_us ELSE first_us END, first_us FROM (
    SELECT task.submitted_us, died, (
        SELECT MIN(ended_us - duration_us) FROM attempt WHERE task_id = task.id AND lease > COALESCE(died, 0)
    ) AS first_us
    FROM task JOIN (SELECT MAX(lease) AS died FROM attempt WHERE task_id = ?1 AND status IS NOT NULL)
    WHERE task.id = ?1
)
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

    def renew_expiries(self, task_ids: Sequence[int], now_us: int) -> bool:
        """The times to live of these active tasks, which were dead letters, begin anew; whether any has one."""
        rows = {task_id: self._rows[spec] for task_id, spec in self.specs_of(task_ids)}
        spans_ms = {task_id: (row.ttl_ms, row.ttl_from) for task_id, row in rows.items() if row.ttl_ms is not None}
        if not spans_ms:
            return False
        self._write(DELETE_EXPIRIES_OF, [(json.dumps(list(spans_ms)),)])
        self.insert_expiries([(now_us + ms * 1000, task_id) for task_id, (ms, first) in spans_ms.items() if not first])
        return True

    def expiry_of(self, task_id: int, spec: int) -> int | None:
        """When a task that has had an attempt may not begin any more; None if it always may."""
        row = self._rows[spec]
        if row.ttl_ms is None:
            return None
        return int(self._read_one(SELECT_BEGINNINGS, (task_id,))[row.ttl_from] + row.ttl_ms * 1000)
