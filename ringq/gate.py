"""Flow: may tasks of this queue start now, and how many? Pure; every refusal has a named reason."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable

UNSERVED_MAX = 1000  # named of them: any client may name a new queue


class Refusal(enum.StrEnum):
    """Why a candidate may not start now."""

    QUEUE_NOT_SERVED = "queue_not_served"
    QUEUE_PAUSED = "queue_paused"
    QUEUE_COOLING = "queue_cooling"
    QUEUE_FULL = "queue_full"


class Gate:
    """The limits of the queues that this server serves: none given means every queue, without a limit.

    Attributes: `refusals`, how often for what reason; `unserved`, queues with tasks that are none of this server's.
    """

    def __init__(self, queues: Iterable[tuple[str, int | None]]) -> None:
        self._caps = dict(queues)
        self._served = frozenset(self._caps)  # empty: all
        self._closed: dict[str, Refusal] = {}
        self._paused: set[str] = set()
        self._cooling: set[str] = set()
        self._queue_of: dict[int, str] = {}  # started tasks of capped queues only: others cost nothing
        self._started: Counter[str] = Counter()
        self.refusals: Counter[Refusal] = Counter()
        self.unserved: set[str] = set()

    def admit(self, queue: str, wanted: int) -> int:
        """How many of `wanted` tasks of `queue` may start now."""
        if not self._caps and not self._closed:
            return wanted
        if self._served and queue not in self._served:
            if len(self.unserved) < UNSERVED_MAX:
                self.unserved.add(queue)
            return self._refuse(Refusal.QUEUE_NOT_SERVED)
        if queue in self._closed:
            return self._refuse(self._closed[queue])
        cap = self._caps.get(queue)
        if cap is None:
            return wanted
        free = max(0, cap - self._started[queue])
        return min(wanted, free) or self._refuse(Refusal.QUEUE_FULL)

    def limit(self, queue: str, cap: int | None, running: Iterable[int]) -> None:
        """From now on at most `cap` tasks of the queue run at a time, None for no limit; `running` do already."""
        if cap is None:
            self._caps.pop(queue, None)
            return
        was_counted = self._caps.get(queue) is not None
        self._caps[queue] = cap
        if not was_counted:
            self.started(queue, (task_id for task_id in running if task_id not in self._queue_of))

    def pause(self, queue: str, is_paused: bool) -> None:
        """Start none of its tasks, or start them again."""
        self._close(queue, self._paused, is_paused)

    def cool(self, queue: str, is_cooling: bool) -> None:
        """The same, because what its tasks use has asked for a break."""
        self._close(queue, self._cooling, is_cooling)

    @property
    def closed(self) -> dict[str, str]:
        """Queues of which no task starts, and why."""
        return {name: reason.value for name, reason in self._closed.items()}

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

    def _close(self, queue: str, closed: set[str], is_closed: bool) -> None:
        (closed.add if is_closed else closed.discard)(queue)
        self._closed.pop(queue, None)
        if queue in self._cooling:
            self._closed[queue] = Refusal.QUEUE_COOLING
        if queue in self._paused:
            self._closed[queue] = Refusal.QUEUE_PAUSED

    def _refuse(self, reason: Refusal) -> int:
        self.refusals[reason] += 1
        return 0
