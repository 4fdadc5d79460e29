"""Flow: tasks that were preempted, until nothing more urgent waits. They are durable: a restart does not forget them.

preempted attempt ──► paused (PREEMPTION), in no lane ──► nothing urgent waits ──► one transaction ──► pending
                                                    └──► cancelled, expired, superseded: as any that is pending
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ringq.committed import Committed
from ringq.errors import RingqError
from ringq.verdicts import Verdicts
from ringq.writer import Writer


class Preempted:
    """Knows which tasks wait, and has them go on."""

    def __init__(self, store: Any, writer: Writer, threshold: int | None) -> None:
        """`threshold`: priorities up to it are urgent; None: none is, and whoever waits from an earlier run goes on."""
        self._store = store
        self._writer = writer
        self._threshold = threshold
        self._priorities: dict[int, int] = {}
        self._is_under_way = False

    def __len__(self) -> int:
        return len(self._store.preempted)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._store.preempted

    def may_resume(self, most_urgent: int | None) -> list[int]:
        """The tasks that need not wait any longer: nothing urgent waits that is strictly more urgent.

        `most_urgent`: the priority of the most urgent task that may start now, None if there is none. Nothing while
        the last answer is being written. Not to be asked while a transaction is under way.
        """
        if not self._store.preempted or self._is_under_way:
            return []
        if most_urgent is None or self._threshold is None or most_urgent > self._threshold:
            return sorted(self._store.preempted)
        if self._priorities.keys() != self._store.preempted:
            specs = self._store.specs()
            found = self._store.specs_of(sorted(self._store.preempted))
            self._priorities = {task_id: specs[number].priority for task_id, number in found}
        return [task_id for task_id, priority in self._priorities.items() if priority <= most_urgent]

    def resume(self, task_ids: Sequence[int]) -> None:
        """Have these go on: after COMMIT they are at their place in the backlog."""
        if task_ids:
            self._is_under_way = True
            self._writer.change(Resume(task_ids, self._done))

    def _done(self) -> None:
        self._is_under_way = False


@dataclass(frozen=True, slots=True)
class Resume:
    """These tasks wait for nobody any more. `done` is called when that is durable, or could not be written."""

    task_ids: Sequence[int]
    done: Callable[[], None]

    def apply(self, store: Any, verdicts: Verdicts, committed: Committed) -> Callable[[], None]:
        """See `Change`."""
        resumed = store.delete_preempted(self.task_ids)
        committed.returned += [task_id for task_id in resumed if verdicts.cancels.ended_as(task_id) is None]
        return self.done

    def refuse(self, _error: RingqError) -> None:
        """See `Change`."""
        self.done()
