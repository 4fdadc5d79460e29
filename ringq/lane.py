"""Flow: the pending tasks of one place, between commit and publish, oldest first.

Its newest part is packed runs of ids. Only the head is held as rows with payloads, and refilled by id.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

from ringq.entries import TASK_ID, Admitted, Row
from ringq.places import Place
from ringq.runs import Runs, consecutive

# The rows of runs of ids, and the id up to which they are loaded.
LoadRows = Callable[[Sequence[tuple[int, int]]], tuple[list[Row], int]]
REFILL_ROWS_MAX = 1024
REFILL_BYTES = 1 << 20  # of payloads: what one refill of a lane should load
MANY = 16  # ids that are put back at once: then it is worth a look whether they can be a run
PAYLOAD = itemgetter(4)  # of a row


class Lane:
    """The pending tasks of one place, oldest first.

    While it is sorted anew, because something was said of a group or kind that may be among its tasks, it gives out
    only those that were looked at: they belong here.
    """

    __slots__ = (
        *("_load", "_refill_rows", "_removed", "_returned", "_rows", "_runs", "_unsorted", "_unsorted_returned"),
        *("held_bytes", "place"),
    )

    def __init__(self, place: Place, load: LoadRows) -> None:
        self.place = place
        self._load = load
        self._rows: deque[Row] = deque()
        self._runs = Runs()
        self.held_bytes = 0  # of the payloads of these rows
        self._refill_rows = 16  # follows the size of the payloads
        self._returned: list[int] = []  # heap of ids that came due or came back, among the others or before them
        self._removed: set[int] = set()  # ids that are still in one of these, and are left out when they are met
        self._unsorted = Runs()  # all behind the others
        self._unsorted_returned: list[int] = []

    def __len__(self) -> int:
        sorted_ids = len(self._rows) + len(self._returned) + self._runs.count
        return sorted_ids + self._unsorted.count + len(self._unsorted_returned) - len(self._removed)

    @property
    def is_sorted(self) -> bool:
        """Whether all of its tasks were looked at."""
        return not self._unsorted.count and not self._unsorted_returned

    @property
    def held(self) -> int:
        """How many tasks are held as rows."""
        return len(self._rows)

    @property
    def head(self) -> int | None:
        """The smallest id, maybe of one that was removed; None when the lane is empty."""
        head = self._rows[0][0] if self._rows else self._runs.head if self._runs.count else None
        if self._returned and (head is None or self._returned[0] < head):
            return self._returned[0]
        return head

    @property
    def oldest(self) -> int | None:
        """The smallest id, also of what is not sorted yet."""
        heads = [self.head, self._unsorted.head if self._unsorted.count else None, *self._unsorted_returned]
        return min((head for head in heads if head is not None), default=None)

    def __contains__(self, task_id: int) -> bool:
        """Whether this task waits here, and was looked at."""
        if task_id in self._removed:
            return False
        at = bisect_left(self._rows, task_id, key=TASK_ID)
        is_row = at < len(self._rows) and self._rows[at][0] == task_id
        return is_row or task_id in self._runs or task_id in self._returned

    def count_upto(self, task_id: int) -> int:
        """How many of those that were looked at have ids that are not above this one."""
        count = bisect_right(self._rows, task_id, key=TASK_ID) + self._runs.count_upto(task_id)
        count += sum(returned <= task_id for returned in self._returned)
        return max(0, count - sum(removed <= task_id for removed in self._removed))

    def append(self, tasks: Admitted, room: int, room_bytes: int) -> None:
        """Add newly committed tasks, larger than all before.

        At most `room` of them, with about `room_bytes` of payloads, are kept as rows, the others as ids.
        """
        count = len(tasks.ids)
        size = sum(map(len, tasks.payloads))
        keep = 0 if self._runs.count or self._unsorted.count else min(room, count)
        if size > room_bytes:
            keep = min(keep, count * max(0, room_bytes) // size)
        rows = tasks.rows(keep)
        self._rows.extend(rows)
        self.held_bytes += size if keep == count else payload_bytes(rows)
        rest = tasks.ids[keep:]
        if isinstance(rest, range) and rest:
            self._last_runs.append(rest[0], rest[-1])
        else:
            self.append_ids(rest)

    def append_ids(self, ids: Iterable[int]) -> None:
        """Add ids, ascending and larger than all before, without their rows."""
        runs = self._last_runs
        for first, last in consecutive(ids):
            runs.append(first, last)

    @property
    def _newest(self) -> int:
        return self._runs.last if self._runs.count else self._rows[-1][0] if self._rows else 0

    @property
    def _last_runs(self) -> Runs:
        return self._unsorted if self._unsorted.count else self._runs

    def put_back(self, rows: Sequence[Row]) -> None:
        """Put rows back that were taken last: they are older than all that is left."""
        self._rows.extendleft(reversed(rows))
        self.held_bytes += payload_bytes(rows)

    def give_back(self, ids: Sequence[int]) -> None:
        """Put tasks at the place of their ids, which ascend: they came due, or their attempt did not end them."""
        if len(ids) >= MANY and ids[0] > self._newest and not self._removed and not self._unsorted.count:
            self.append_ids(ids)  # as when the one ends that many wait for: loaded in ranges, they take a third
            return
        for task_id in ids:
            if task_id in self._removed:
                self._removed.discard(task_id)  # it is still at its place
            else:
                heapq.heappush(self._returned, task_id)

    def remove(self, task_id: int) -> None:
        """Leave this task, which is in the lane, out of it.

        It is noted, and forgotten when it is met: to look for one among the window's rows would take 50 us.
        """
        self._removed.add(task_id)

    def begin_sorting(self) -> None:
        """From now on give out nothing that was not looked at. What is held as rows is loaded again."""
        ids = Runs()
        found = list(consecutive(map(TASK_ID, self._rows)))
        for runs in (self._runs, self._unsorted):
            found += runs.take(runs.count)
        for first, last in sorted(found):  # another lane may have given it later ids than it has looked at itself
            ids.append(first, last)
        self._rows.clear()
        self.held_bytes = 0
        self._unsorted = ids
        self._unsorted_returned += self._returned
        self._returned = []

    def holds_unsorted(self, task_id: int) -> bool:
        """Whether this task is among those that were not looked at. One that was removed has come back elsewhere."""
        is_there = task_id in self._unsorted or task_id in self._unsorted_returned
        return is_there and task_id not in self._removed

    def take_unsorted(self, limit: int) -> list[tuple[int, int]]:
        """Remove up to `limit` ids that were not looked at, as runs; `add_sorted` is for those that belong here."""
        if self._unsorted_returned:
            ids = sorted(self._unsorted_returned[-limit:])
            del self._unsorted_returned[-limit:]
            runs = list(consecutive(ids))
        else:
            runs = self._unsorted.take(limit)
        if not self._removed:
            return runs
        ids = [task_id for first, last in runs for task_id in range(first, last + 1)]
        met = self._removed.intersection(ids)
        self._removed -= met
        return list(consecutive(task_id for task_id in ids if task_id not in met))

    def add_sorted(self, first: int, last: int) -> None:
        """Add the ids first..last, wherever they belong."""
        if first > self._newest:
            self._runs.append(first, last)
        else:
            self.give_back(range(first, last + 1))

    def take(self, limit: int, before: int | None) -> list[Row]:
        """Remove and return up to `limit` tasks with ids below `before`, in order of id."""
        rows, returned = self._rows, self._returned
        taken: list[Row] = []
        while (count := limit - len(taken)) > 0 and self._bring_head():
            count = min(count, len(rows))
            bound = returned[0] if returned and (before is None or returned[0] < before) else before
            if bound is not None and rows[count - 1][0] >= bound:
                count = bisect_left(rows, bound, 0, count, key=TASK_ID)
                if count == 0:
                    break
            front = [rows.popleft() for _ in range(count)]
            taken += self._without_removed(front) if self._removed else front
        self.held_bytes -= payload_bytes(taken)
        return taken

    def _bring_head(self) -> bool:
        """See to it that the oldest task is the first row. False when the lane is empty."""
        rows, returned = self._rows, self._returned
        while True:
            while not rows and self._runs.count:
                loaded, rest = self._loaded(self._runs.take(self._refill_rows))
                rows.extend(loaded)
                self._runs.put_back(rest)
            if not returned or (rows and rows[0][0] < returned[0]):
                return bool(rows)
            ids: list[int] = []
            while returned and len(ids) < self._refill_rows and (not rows or returned[0] < rows[0][0]):
                ids.append(heapq.heappop(returned))
            loaded, rest = self._loaded(list(consecutive(ids)))
            rows.extendleft(reversed(loaded))
            self.give_back([task_id for first, last in rest for task_id in range(first, last + 1)])

    def _without_removed(self, front: list[Row]) -> list[Row]:
        gone = [row for row in front if row[0] in self._removed]
        kept = [row for row in front if row[0] not in self._removed] if gone else front
        self.held_bytes -= payload_bytes(gone)
        self._removed.difference_update(map(TASK_ID, gone))
        return kept

    def _loaded(self, runs: list[tuple[int, int]]) -> tuple[list[Row], list[tuple[int, int]]]:
        """Load rows; also the runs that were too large to be loaded with them.

        The next time it asks for as many as make about REFILL_BYTES, but not many times more at once.
        """
        rows, upto = self._load(runs)
        if self._removed:
            met = {i for first, last in runs for i in range(first, min(last, upto) + 1) if i in self._removed}
            rows = [row for row in rows if row[0] not in met]
            self._removed -= met
        size = payload_bytes(rows)
        self.held_bytes += size
        fitting = len(rows) * REFILL_BYTES // size if size else REFILL_ROWS_MAX
        self._refill_rows = max(1, min(fitting, 8 * self._refill_rows, REFILL_ROWS_MAX))
        return rows, [(max(first, upto + 1), last) for first, last in runs if last > upto]


def payload_bytes(rows: Iterable[Row]) -> int:
    """The size of the rows' payloads, in characters: nearly all are ASCII."""
    return sum(map(len, map(PAYLOAD, rows)))
