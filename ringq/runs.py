"""Values: ids as packed runs, 16 bytes each however long: 10^6 ids as tuples in one heap took 200 MiB. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence


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

    def __contains__(self, task_id: int) -> bool:
        at = bisect_right(self._first, task_id, self._head) - 1
        return at >= self._head and task_id <= self._last[at]

    def count_upto(self, task_id: int) -> int:
        """How many of the ids are not above this one."""
        upto = bisect_right(self._first, task_id, self._head)
        if upto == self._head:
            return 0
        whole = sum(self._last[self._head : upto]) - sum(self._first[self._head : upto]) + upto - self._head
        return whole - max(0, self._last[upto - 1] - task_id)

    @property
    def last(self) -> int:
        """The largest id. Only while count > 0."""
        return self._last[-1]

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
