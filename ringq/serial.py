"""Flow: who of the tasks with one serial key has the turn, and who waits for it, in order of (priority, id). Pure.

A task has the turn from when it is given out until it has ended: also while it waits for another attempt. Only before
it has begun may a more urgent one take the turn away from it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence, Set
from itertools import repeat

ID_BITS = 55  # of an order: priority and id as one number takes 36 bytes where a pair takes 120
ID_MASK = (1 << ID_BITS) - 1
FEW = 8  # times as many in the line: then each is pushed, else all is ordered anew
STALE_MAX = 64  # numbers of tasks that have left, besides as many as there are others


class Line:
    """The tasks of one key. `orders`: a heap of those that wait, with some that have left; `count`: without these."""

    __slots__ = ("count", "has_begun", "holder", "key", "orders")

    def __init__(self, key: str) -> None:
        self.key = key
        self.holder: int | None = None  # the order of who has the turn
        self.has_begun = False
        self.orders: list[int] = []
        self.count = 0


class Serials:
    """All lines of a server. Keys without active tasks are forgotten."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._line_of: dict[int, Line] = {}  # of who waits
        self._held: dict[int, Line] = {}  # of who has the turn

    def __len__(self) -> int:
        """How many tasks wait for their turn."""
        return len(self._line_of)

    def waits(self, task_id: int) -> bool:
        """Whether the task waits for its turn."""
        return task_id in self._line_of

    def waiting_for(self, task_id: int) -> int | None:
        """The task that has the turn for which this one waits; None if it does not wait."""
        line = self._line_of.get(task_id)
        return None if line is None or line.holder is None else line.holder & ID_MASK

    def oldest(self) -> int | None:
        """About the smallest id of those that wait: the one that has done so for longest."""
        return next(iter(self._line_of), None)

    # -- coming -------------------------------------------------------------------------------

    def load(self, tasks: Iterable[tuple[int, str, int]], begun: Iterable[tuple[int, str, int]]) -> list[int]:
        """Begin with what a start has found, as (task id, key, priority); those that have the turn and may run now.

        `tasks`: those that may run now. `begun`: all that have begun, also those whose next attempt is delayed. If
        more than one of a key has, which only somebody's own statements can bring about, the first has the turn.
        """
        for task_id, key, priority in begun:
            line = self._line(key)
            if line.holder is None:
                self._hold(line, _order(priority, task_id), has_begun=True)
        out = []
        for task_id, key, priority in tasks:
            if task_id in self._held:
                out.append(task_id)
            else:
                self._wait(self._line(key), priority, [task_id])
        return out + self._give_turns([line for line in self._lines.values() if line.holder is None])

    def admit(self, key: str, priority: int, task_id: int) -> bool:
        """This task may run now, for all else: whether it has the turn. If not, it waits for it."""
        return bool(self.admit_all(key, priority, [task_id]))

    def admit_all(self, key: str, priority: int, task_ids: Sequence[int]) -> list[int]:
        """The same for several of a key and priority, in ascending order; the one that has the turn, if any."""
        line = self._line(key)
        first = task_ids[0]
        if self._held.get(first) is line:
            line.holder = _order(priority, first)  # it may have become more urgent
        elif line.holder is None:
            self._hold(line, _order(priority, first))
        else:
            self._wait(line, priority, task_ids)
            return []
        self._wait(line, priority, task_ids[1:])
        return [first]

    # -- order --------------------------------------------------------------------------------

    def ahead_of(self, task_id: int) -> int | None:
        """Of a task that waits: who has the turn that is due to this one, and has not begun as far as is known."""
        line = self._line_of.get(task_id)
        if line is None or line.holder is None or line.has_begun or self._first(line) >= line.holder:
            return None
        return line.holder & ID_MASK

    def pass_on(self, holder: int) -> list[int]:
        """Who has the turn has not begun: it waits again, and the first in line has the turn, which is returned."""
        line = self._held.pop(holder)
        order, line.holder = line.holder, None
        assert order is not None
        self._wait(line, order >> ID_BITS, [holder])
        return self._give_turns([line])

    def has_begun(self, task_ids: Iterable[int]) -> None:
        """These tasks have begun: those of them that have the turn keep it to their end."""
        for task_id in task_ids:
            line = self._held.get(task_id)
            if line is not None:
                line.has_begun = True

    # -- going --------------------------------------------------------------------------------

    def ended(self, task_ids: Set[int]) -> list[int]:
        """These tasks have ended; those that have the turn now in their place. Tasks in no line cost 0.06 us each."""
        for task_id in self._line_of.keys() & task_ids:
            self.withdraw(task_id)
        free = [self._held.pop(task_id) for task_id in sorted(self._held.keys() & task_ids)]
        for line in free:
            line.holder, line.has_begun = None, False
        return self._give_turns(free)

    def withdraw(self, task_id: int) -> bool:
        """This task waits no longer; it may be admitted again. False if it did not."""
        line = self._line_of.pop(task_id, None)
        if line is None:
            return False
        line.count -= 1
        if len(line.orders) > 2 * line.count + STALE_MAX:
            line.orders = [order for order in line.orders if self._line_of.get(order & ID_MASK) is line]
            heapq.heapify(line.orders)
        return True

    # -- inside -------------------------------------------------------------------------------

    def _line(self, key: str) -> Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key)
        return line

    def _hold(self, line: Line, order: int, *, has_begun: bool = False) -> None:
        line.holder, line.has_begun = order, has_begun
        self._held[order & ID_MASK] = line

    def _wait(self, line: Line, priority: int, task_ids: Sequence[int]) -> None:
        orders = line.orders
        before = len(self._line_of)
        if len(task_ids) * FEW <= len(orders) or len(task_ids) == 1:
            for task_id in task_ids:
                heapq.heappush(orders, _order(priority, task_id))
                self._line_of[task_id] = line
        else:
            above = priority << ID_BITS
            orders += [above | task_id for task_id in task_ids]
            heapq.heapify(orders)
            self._line_of.update(zip(task_ids, repeat(line)))
        line.count += len(self._line_of) - before

    def _give_turns(self, lines: Iterable[Line]) -> list[int]:
        """Give the turn in lines where nobody has it; who has it now."""
        out = []
        for line in lines:
            if line.count:
                order = self._first(line)
                heapq.heappop(line.orders)
                del self._line_of[order & ID_MASK]
                line.count -= 1
                self._hold(line, order)
                out.append(order & ID_MASK)
            else:
                del self._lines[line.key]
        return out

    def _first(self, line: Line) -> int:
        """The order of the first that waits, without those before it that have left."""
        while self._line_of.get(line.orders[0] & ID_MASK) is not line:
            heapq.heappop(line.orders)
        return line.orders[0]


def _order(priority: int, task_id: int) -> int:
    return priority << ID_BITS | task_id
