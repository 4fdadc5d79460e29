"""Store: what attempts have left for the next ones of their tasks, and what is told of those that run."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final

from ringq.model import Status
from ringq.store.callbacks import CallbackTables
from ringq.store.session import Rows

# The newest of a task; an attempt before the one that has left it comes too late.
INSERT_CHECKPOINT: Final = """
INSERT INTO checkpoint (task_id, lease, saved_us, text) VALUES (?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET lease = excluded.lease, saved_us = excluded.saved_us, text = excluded.text
WHERE excluded.lease >= checkpoint.lease
"""

# What the next attempt resumes from.
SELECT_CHECKPOINT: Final = "SELECT text FROM checkpoint WHERE task_id = ?"

# Whose there are: as many as tasks that run or have failed and have kept something.
SELECT_WITH_CHECKPOINT: Final = "SELECT task_id FROM checkpoint"

# Nobody resumes from these.
DELETE_CHECKPOINTS: Final = "DELETE FROM checkpoint WHERE task_id IN (SELECT value FROM json_each(?))"

# How many tasks of each kind have completed, and how long that took.
SELECT_USUAL: Final = "SELECT kind, count, duration_us FROM statistic WHERE status = ? AND count > 0"

# Which of these tasks have a name of their own.
SELECT_LABELS: Final = "SELECT task_id, text FROM label WHERE task_id IN (SELECT value FROM json_each(?))"


class CheckpointTables(CallbackTables):
    """Statements about checkpoints. Those that write belong into `transaction()`.

    Attributes: `with_checkpoint`, the ids of tasks that have one, also those of the transaction under way.
    """

    with_checkpoint: set[int]

    def checkpoint_of(self, task_id: int) -> str | None:
        """The newest of a task, as JSON text."""
        row = self._read_one(SELECT_CHECKPOINT, (task_id,)) if task_id in self.with_checkpoint else None
        return None if row is None else str(row[0])

    def insert_checkpoints(self, rows: Rows) -> None:
        """Keep these, given as (task_id, lease, saved_us, text)."""
        if rows:
            self._write(INSERT_CHECKPOINT, rows)
            self._reload.add(self._load_checkpoints)
            self.with_checkpoint.update(row[0] for row in rows)

    def delete_checkpoints(self, task_ids: Collection[int]) -> None:
        """These tasks need theirs no longer."""
        found = sorted(self.with_checkpoint.intersection(task_ids))
        if found:
            self._execute(DELETE_CHECKPOINTS, (json.dumps(found),))
            self._reload.add(self._load_checkpoints)
            self.with_checkpoint.difference_update(found)

    def usual_durations(self) -> dict[int, float]:
        """By the number of each kind of which tasks have completed: how long those took on average, in seconds."""
        rows: list[tuple[int, int, int]] = self._read(SELECT_USUAL, (Status.COMPLETED.code,))
        return {kind: duration_us / count / 1e6 for kind, count, duration_us in rows}

    def labels_of(self, task_ids: Collection[int]) -> dict[int, str]:
        """task_id -> its name, of those that were given one."""
        return dict(self._read(SELECT_LABELS, (json.dumps(list(task_ids)),)))

    def _load_checkpoints(self) -> None:
        self.with_checkpoint = {row[0] for row in self._read(SELECT_WITH_CHECKPOINT)}
