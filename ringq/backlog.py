"""Flow: the pending tasks in the parent's memory, between commit and publish, in order of (priority, id).

A lane holds one (priority, queue). Its newest part is packed runs of ids, 16 bytes a run however long: 10^6 ids as
tuples in one heap took 200 MiB. Only the head of each lane is held as rows with payloads, and refilled by id.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from operator import itemgetter

# (task id, kind, attempt, run limit in ms or 0, payload): what Parent.publish takes
Row = tuple[int, int, int, int, str]
# the rows of runs of ids, and the id up to which they are loaded
LoadRows = Callable[[Sequence[tuple[int, int]]], tuple[list[Row], int]]


@dataclass(slots=True)
class Admitted:
    """Tasks of one lane that were committed and may start, column by column; their ids ascend.

    Only as many become rows as the window takes.
    """

    priority: int
    queue: str
    ids: Sequence[int]
    kinds: Iterable[int]
    limits_ms: Iterable[int]  # 0: none
    payloads: Sequence[str]

    def rows(self, count: int) -> list[Row]:
        """The first of them as rows. To be called once: `kinds` and `limits_ms` may be generators."""
        return list(islice(zip(self.ids, self.kinds, repeat(1), self.limits_ms, self.payloads), count))


REFILL_ROWS_MAX = 1024
REFILL_BYTES = 1 << 20  # of payloads: what one refill of a lane should load
TASK_ID, PAYLOAD = itemgetter(0), itemgetter(4)  # of a row


class Runs:
    """Ascending ids as packed [first, last] runs; taken from the front."""

    __slots__ = ("_first", "_head", "_last", "count")

    def __init__(self) -> None:
        self._first = array("q")
        self._last = array("q")
        self._head = 0
        self.count = 0

    def append(self, first: int, last: int) -> None:
        """Add the ids first..last, all larger than any added before."""
        if len(self._last) > self._head and self._last[-1] == first - 1:
            self._last[-1] = last
        else:
            self._first.append(first)
            self._last.append(last)
        self.count += last - first + 1

    @property
    def head(self) -> int:
        """The smallest id. Only while count > 0."""
        return self._first[self._head]

    def take(self, limit: int) -> list[tuple[int, int]]:
        """Remove up to `limit` ids from the front and return them as runs."""
        taken: list[tuple[int, int]] = []
        while limit > 0 and self.count > 0:
            first, last = self._first[self._head], self._last[self._head]
            upto = min(last, first + limit - 1)
            taken.append((first, upto))
            limit -= upto - first + 1
            self.count -= upto - first + 1
            if upto == last:
                self._head += 1
            else:
                self._first[self._head] = upto + 1
        self._compact()
        return taken

    def put_back(self, runs: Sequence[tuple[int, int]]) -> None:
        """Put runs back that were just taken."""
        self._first[self._head : self._head] = array("q", (first for first, _ in runs))
        self._last[self._head : self._head] = array("q", (last for _, last in runs))
        self.count += sum(last - first + 1 for first, last in runs)

    def _compact(self) -> None:
        # A deletion at the front of an array moves all the rest: do it once per 4096 runs.
        if self._head >= 4096 or self.count == 0:
            del self._first[: self._head]
            del self._last[: self._head]
            self._head = 0


class Lane:
    """The pending tasks of one priority and queue, oldest first."""

    __slots__ = (
        *("_load", "_refill_rows", "_removed", "_returned", "_rows", "_runs"),
        *("held_bytes", "priority", "queue"),
    )

    def __init__(self, priority: int, queue: str, load: LoadRows) -> None:
        self.priority = priority
        self.queue = queue
        self._load = load
        self._rows: deque[Row] = deque()
        self._runs = Runs()
        self.held_bytes = 0  # of the payloads of these rows
        self._refill_rows = 16  # follows the size of the payloads
        self._returned: list[int] = []  # heap of ids that came due or came back, among the others or before them
        self._removed: set[int] = set()  # ids that are still in one of these, and are left out when they are met

    def __len__(self) -> int:
        return len(self._rows) + len(self._returned) + self._runs.count - len(self._removed)

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

    def append(self, tasks: Admitted, room: int, room_bytes: int) -> None:
        """Add newly committed tasks, larger than all before.

        At most `room` of them, with about `room_bytes` of payloads, are kept as rows, the others as ids.
        """
        count = len(tasks.ids)
        size = sum(map(len, tasks.payloads))
        keep = 0 if self._runs.count else min(room, count)
        if size > room_bytes:
            keep = min(keep, count * max(0, room_bytes) // size)
        rows = tasks.rows(keep)
        self._rows.extend(rows)
        self.held_bytes += size if keep == count else payload_bytes(rows)
        rest = tasks.ids[keep:]
        if isinstance(rest, range) and rest:
            self._runs.append(rest[0], rest[-1])
        else:
            self.append_ids(rest)

    def append_ids(self, ids: Iterable[int]) -> None:
        """Add ids, ascending and larger than all before, without their rows."""
        for first, last in consecutive(ids):
            self._runs.append(first, last)

    def put_back(self, rows: Sequence[Row]) -> None:
        """Put rows back that were taken last: they are older than all that is left."""
        self._rows.extendleft(reversed(rows))
        self.held_bytes += payload_bytes(rows)

    def give_back(self, ids: Iterable[int]) -> None:
        """Put tasks at the place of their ids: they came due, or their attempt did not end them."""
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
            self.give_back(task_id for first, last in rest for task_id in range(first, last + 1))

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


class Backlog:
    """All lanes of the server."""

    def __init__(self, load: LoadRows, window_rows_max: int, window_bytes_max: int) -> None:
        self._load = load
        self._window_rows_max = window_rows_max
        self._window_bytes_max = window_bytes_max
        self._lanes: dict[tuple[int, str], Lane] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def lane(self, priority: int, queue: str) -> Lane:
        """The lane of this priority and queue, made when new."""
        lane = self._lanes.get((priority, queue))
        if lane is None:
            lane = self._lanes[priority, queue] = Lane(priority, queue, self._load)
        return lane

    def append(self, tasks: Admitted) -> None:
        """Add newly committed tasks."""
        room = self._window_rows_max - sum(lane.held for lane in self._lanes.values())
        room_bytes = self._window_bytes_max - sum(lane.held_bytes for lane in self._lanes.values())
        self.lane(tasks.priority, tasks.queue).append(tasks, max(0, room), room_bytes)

    def remove(self, priority: int, queue: str, task_id: int) -> None:
        """Leave this task, which is in the lane of this priority and queue, out of it; `give_back` puts it back."""
        lane = self._lanes.get((priority, queue))
        if lane is not None:
            lane.remove(task_id)

    def lanes(self) -> Iterator[Lane]:
        """The lanes that have tasks; those that have none are forgotten: any client may name a new queue."""
        for key, lane in list(self._lanes.items()):
            if len(lane):
                yield lane
            else:
                del self._lanes[key]

    def most_urgent(self, blocked: Container[Lane]) -> list[Lane]:
        """The lanes of the most urgent priority that has tasks in others than the `blocked` ones; those left out."""
        lanes = [lane for lane in self.lanes() if lane not in blocked]
        if len(lanes) > 1:
            priority = min(lane.priority for lane in lanes)
            lanes = [lane for lane in lanes if lane.priority == priority]
        return lanes

    def min_task_id(self) -> int | None:
        """The smallest pending id."""
        heads = (lane.head for lane in self.lanes())
        return min((head for head in heads if head is not None), default=None)


def payload_bytes(rows: Iterable[Row]) -> int:
    """The size of the rows' payloads, in characters: nearly all are ASCII."""
    return sum(map(len, map(PAYLOAD, rows)))


def consecutive(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending ids as [first, last] runs."""
    first = last = None
    for task_id in ids:
        if last is not None and task_id == last + 1:
            last = task_id
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = task_id
    if first is not None and last is not None:
        yield first, last
