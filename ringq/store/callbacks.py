"""Store: tasks that somebody outside completes, by a token of which only the digest is here."""

# ruff: noqa: S608 - statements are put together from constants; values are always bound

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from ringq.store.graph import GraphTables

# Somebody may complete the task from now on. Who could before may not any more, and what was answered is forgotten.
INSERT_CALLBACK: Final = """
INSERT INTO callback (task_id, digest, lease, expires_us) VALUES (?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET
    digest = excluded.digest, lease = excluded.lease, expires_us = excluded.expires_us,
    status = NULL, result = NULL, error = NULL
"""

CALLBACK_ROW: Final = """
SELECT callback.task_id, callback.lease, callback.expires_us, callback.status, callback.result, callback.error,
    COALESCE(waiting.phase = 2 AND waiting.lease = callback.lease, 0)"""

# Which task a token completes, and whether its attempt has ended.
SELECT_CALLBACK: Final = f"""{CALLBACK_ROW}
FROM callback LEFT JOIN waiting ON waiting.task_id = callback.task_id
WHERE callback.digest = ? AND NOT EXISTS (SELECT 1 FROM receipt WHERE receipt.task_id = callback.task_id)
"""

# Who may be completed from outside, of these tasks.
SELECT_CALLBACKS_OF: Final = f"""{CALLBACK_ROW}
FROM json_each(?) AS wanted CROSS JOIN callback ON callback.task_id = wanted.value
LEFT JOIN waiting ON waiting.task_id = callback.task_id
"""

# Somebody has answered.
UPDATE_ANSWER: Final = "UPDATE callback SET status = ?, result = ?, error = ? WHERE task_id = ?"

# There is another limit to how long that may take.
UPDATE_EXPIRES: Final = "UPDATE callback SET expires_us = ? WHERE task_id = ?"

# The task, or the attempt that asked, has ended.
DELETE_CALLBACKS: Final = "DELETE FROM callback WHERE task_id IN (SELECT value FROM json_each(?))"

# Whether there is any.
SELECT_HAS_CALLBACKS: Final = "SELECT EXISTS (SELECT 1 FROM callback)"

# It has failed after all, and lasted until now.
UPDATE_FAILED: Final = """
UPDATE attempt SET reason = ?3, error = ?4, duration_us = MAX(duration_us, duration_us + ?5 - ended_us), ended_us = ?5
WHERE task_id = ?1 AND lease = ?2
"""


class CallbackRow(NamedTuple):
    """How a task is completed from outside.

    `status`, None while nobody has answered: the code of the status that it gets, 0 (pending) if it is tried again.
    `is_parked`: the attempt that asked for it has ended well.
    """

    task_id: int
    lease: int
    expires_us: int | None
    status: int | None
    result: str | None
    error: str | None
    is_parked: int

    def is_over(self, now_us: int) -> bool:
        """Whether nobody has answered in time."""
        return self.status is None and self.expires_us is not None and self.expires_us <= now_us


class CallbackTables(GraphTables):
    """Statements about callbacks. Those that write belong into `transaction()`.

    Attributes: `has_callbacks`, whether there may be any.
    """

    has_callbacks = False

    def insert_callback(self, task_id: int, digest: bytes, lease: int, expires_us: int | None) -> None:
        """Who knows the token with this digest may complete the task; nobody else may any more."""
        self._write(INSERT_CALLBACK, [(task_id, digest, lease, expires_us)])
        self.has_callbacks = True

    def find_callback(self, digest: bytes) -> CallbackRow | None:
        """The task that has not ended, and that the token with this digest completes."""
        row = self._read_one(SELECT_CALLBACK, (digest,))
        return None if row is None else CallbackRow._make(row)

    def callbacks_of(self, task_ids: Collection[int]) -> list[CallbackRow]:
        """Those of these tasks that may be completed from outside, whether they have ended or not."""
        return list(map(CallbackRow._make, self._read(SELECT_CALLBACKS_OF, (json.dumps(list(task_ids)),))))

    def answer_callback(self, task_id: int, status: int, result: str | None, error: str | None) -> None:
        """Keep an answer until the attempt that asked for it has ended."""
        self._write(UPDATE_ANSWER, [(status, result, error, task_id)])

    def extend_callback(self, task_id: int, expires_us: int | None) -> None:
        """Wait until then, or for ever."""
        self._write(UPDATE_EXPIRES, [(expires_us, task_id)])

    def delete_callbacks(self, task_ids: Sequence[int]) -> None:
        """These have ended, or their attempts have: no token completes them any more."""
        self._execute(DELETE_CALLBACKS, (json.dumps(task_ids),))

    def fail_parked(self, task_id: int, lease: int, reason: int, error: str, now_us: int) -> None:
        """The attempt that has parked this task counts as a failed one, which has lasted until now."""
        self._execute(UPDATE_FAILED, (task_id, lease, reason, error, now_us))

    def _load_callbacks(self) -> None:
        self.has_callbacks = bool(self._read_one(SELECT_HAS_CALLBACKS)[0])
