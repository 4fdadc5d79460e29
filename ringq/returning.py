"""Flow: many tasks that one transaction has taken out of the backlog belong back into it: some of them in each turn.

All at once kept the loop for 210 ms, for a batch of 100,000 keys whose tasks it made more urgent. Until its turn has
come, a task is in no lane; who wants it meanwhile asks here first.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Final

from ringq.dispatch import Dispatcher
from ringq.feed import Feed
from ringq.places import Place

AT_ONCE: Final = 1000  # 2 ms


class Returning:
    """Stands before the dispatcher, where tasks are taken out of lanes, and before the feed."""

    def __init__(self, dispatcher: Dispatcher, feed: Feed) -> None:
        self._dispatcher = dispatcher
        self._feed = feed
        self._left: dict[int, None] = {}  # ids in the order in which they go back
        self._taken: set[int] = set()  # by the transaction under way

    def withdraw(self, task_id: int, place: Place) -> bool:
        """As the dispatcher's."""
        is_ours = self.discard(task_id) or self._dispatcher.withdraw(task_id, place)
        if is_ours:
            self.hold(task_id)
        return is_ours

    def hold(self, task_id: int) -> None:
        """The transaction under way has taken an active task: it may be in no lane until that is over."""
        self._taken.add(task_id)

    def give_back(self, task_ids: Collection[int]) -> None:
        """A transaction is over: put these active tasks at their place in the order, at once if they are few."""
        self._taken.clear()
        if len(task_ids) > AT_ONCE or self._left:
            self._left.update(dict.fromkeys(sorted(task_ids)))
        elif task_ids:
            self._feed.give_back(task_ids)

    def step(self) -> None:
        """Put the next ones there."""
        if self._left:
            task_ids = list(islice(self._left, AT_ONCE))
            for task_id in task_ids:
                del self._left[task_id]
            self._feed.give_back(task_ids)

    def discard(self, task_id: int) -> bool:
        """Whether the task was here; it is not any more."""
        if task_id not in self._left:
            return False
        del self._left[task_id]
        return True

    def holds(self, task_id: int) -> bool:
        """Whether the task is here."""
        return task_id in self._left

    def oldest(self) -> int | None:
        """The smallest id of an active task that may be in no lane."""
        return min((min(ids) for ids in (self._left, self._taken) if ids), default=None)

    @property
    def wait_ns(self) -> int | None:
        """Until `step` has something to do; None if there is nothing."""
        return 0 if self._left else None
