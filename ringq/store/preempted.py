"""Store: tasks that ran when a more urgent one took their place, and wait until no such one does."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final

from ringq.store.submissions import SubmissionTables

# The task waits until somebody says that it may go on.
INSERT_PREEMPTED: Final = "INSERT INTO preempted (task_id) VALUES (?) ON CONFLICT (task_id) DO NOTHING"

# It may, or it has ended.
DELETE_PREEMPTED: Final = "DELETE FROM preempted WHERE task_id IN (SELECT value FROM json_each(?))"

# All of them: few, as many as there were workers for them.
SELECT_PREEMPTED: Final = "SELECT task_id FROM preempted ORDER BY task_id"


class PreemptedTables(SubmissionTables):
    """Statements about preempted tasks. Those that write belong into `transaction()`.

    Attributes: `preempted`, the ids of all that wait, also those of the transaction under way.
    """

    preempted: set[int]

    def insert_preempted(self, task_ids: Collection[int]) -> None:
        """These active tasks wait from now on."""
        self._write(INSERT_PREEMPTED, [(task_id,) for task_id in task_ids])
        self._reload.add(self._load_preempted)
        self.preempted.update(task_ids)

    def delete_preempted(self, task_ids: Collection[int]) -> list[int]:
        """These wait no longer. Returns those that did, by id."""
        found = sorted(self.preempted.intersection(task_ids))
        if found:
            self._execute(DELETE_PREEMPTED, (json.dumps(found),))
            self._reload.add(self._load_preempted)
            self.preempted.difference_update(found)
        return found

    def _load_preempted(self) -> None:
        self.preempted = {row[0] for row in self._read(SELECT_PREEMPTED)}
