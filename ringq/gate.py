"""Flow: may tasks of this queue start now, and how many? Pure; every refusal has a named reason."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable


class Refusal(enum.StrEnum):
    """Why a candidate may not start now."""

    QUEUE_NOT_SERVED = "queue_not_served"
    QUEUE_FULL = "queue_full"


class Gate:
    """The limits of the queues that this server serves: none given means every queue, without a limit."""

    def __init__(self, queues: Iterable[tuple[str, int | None]]) -> None:
        self._caps = dict(queues)
        self._queue_of: dict[int, str] = {}  # started tasks of capped queues only: others cost nothing
        self._started: Counter[str] = Counter()
        self.refusals: Counter[Refusal] = Counter()

    def admit(self, queue: str, wanted: int) -> int:
        """How many of `wanted` tasks of `queue` may start now."""
        if not self._caps:
            return wanted
        if queue not in self._caps:
            self.refusals[Refusal.QUEUE_NOT_SERVED] += 1
            return 0
        cap = self._caps[queue]
        if cap is None:
            return wanted
        free = max(0, cap - self._started[queue])
        if free == 0:
            self.refusals[Refusal.QUEUE_FULL] += 1
        return min(wanted, free)

    def started(self, queue: str, task_ids: Iterable[int]) -> None:
        """These tasks were published."""
        if self._caps.get(queue) is None:
            return
        for task_id in task_ids:
            self._queue_of[task_id] = queue
            self._started[queue] += 1

    def ended(self, task_ids: Iterable[int]) -> None:
        """The attempts of these tasks are over."""
        if not self._queue_of:
            return
        for task_id in task_ids:
            queue = self._queue_of.pop(task_id, None)
            if queue is not None:
                self._started[queue] -= 1
