"""Store: when tasks may not begin any more, and what the limits of those that run count from."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from ringq.model import Reason
from ringq.store.cancels import CancelTables
from ringq.store.session import Rows
from ringq.store.tasks import DIED

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

# A worker has the task, and only this parent knows: it may come back without having begun, or be lost with the host.
INSERT_LOOK_AGAIN: Final = """
INSERT INTO expiry (expires_us, task_id)
SELECT ?1, value FROM json_each(?2) AS held
WHERE NOT EXISTS (SELECT 1 FROM lease WHERE lease.task_id = held.value)
ON CONFLICT (expires_us, task_id) DO NOTHING
"""

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

# The limits of a dead letter that gets another chance begin anew.
INSERT_RENEWAL: Final = """
INSERT INTO renewal (task_id, since_us) VALUES (?, ?) ON CONFLICT (task_id) DO UPDATE SET since_us = excluded.since_us
"""

# From when on a task's limits count: its submission, or its latest other chance; its first attempt since then; and
# what it has waited for before it began to wait for a worker.
SELECT_BEGINNINGS: Final = f"""
SELECT
    own.since_us,
    (SELECT MIN(ended_us - duration_us) FROM attempt WHERE task_id = ?1 AND lease > {DIED.format("?1")}),
    MAX(own.since_us, own.run_at_us, COALESCE((SELECT MAX(ended_us) FROM attempt WHERE task_id = ?1), 0))
FROM (
    SELECT COALESCE(renewal.since_us, task.submitted_us) AS since_us, COALESCE(task.run_at_us, 0) AS run_at_us
    FROM task LEFT JOIN renewal ON renewal.task_id = task.id WHERE task.id = ?1) AS own
"""

# What the limits of an attempt follow from.
SELECT_SINCE: Final = """
SELECT task.spec, COALESCE(renewal.since_us, task.submitted_us)
FROM task LEFT JOIN renewal ON renewal.task_id = task.id WHERE task.id = ?
"""

FIRST: Final = (-1, -1)
LAST: Final = ((1 << 63) - 1, (1 << 63) - 1)


class ExpiryTables(CancelTables):
    """Statements about limits in time. Those that write belong into `transaction()`."""

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

    def look_again(self, task_ids: Sequence[int], at_us: int) -> None:
        """Of these tasks, which workers have, those without a durable lease are looked at once more, then."""
        if task_ids:
            self._write(INSERT_LOOK_AGAIN, [(at_us, json.dumps(task_ids))])

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

    def renew(self, task_ids: Sequence[int], since_us: int) -> None:
        """The limits of these tasks count from that instant on."""
        self._write(INSERT_RENEWAL, [(task_id, since_us) for task_id in task_ids])

    def limits_of(self, task_id: int, spec: int) -> list[tuple[int, Reason]]:
        """(instant, reason) of each limit after which an active task may not begin any more, the soonest first.

        That of its wait is the one of its present wait, if it waits for a worker, or for its time.
        """
        row = self._rows[spec]
        if not row.expires:
            return []
        since_us, first_us, waits_us = self._read_one(SELECT_BEGINNINGS, (task_id,))
        limits = (
            (first_us if row.ttl_from else since_us, row.ttl_ms, Reason.TTL),
            (since_us, row.total_timeout_ms, Reason.TOTAL_TIMEOUT),
            (waits_us, row.queue_timeout_ms, Reason.QUEUE_TIMEOUT),
        )
        return sorted((from_us + ms * 1000, reason) for from_us, ms, reason in limits if ms and from_us is not None)

    def since_of(self, task_id: int) -> tuple[int, int]:
        """The number of a task's spec, and from when on its limits count."""
        spec, since_us = self._read_one(SELECT_SINCE, (task_id,))
        return spec, since_us
