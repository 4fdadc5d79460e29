"""Flow: pending tasks that were met on the way and have no handler here, out of the way of the others. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator


class Pile:
    """Ids in order, 8 bytes each: a set of 10^6 takes 70 MiB. Mostly added at the end, and taken from the front."""

    __slots__ = ("_gone", "_head", "_ids")

    def __init__(self) -> None:
        self._ids = array("q")
        self._head = 0  # before it, all are gone
        self._gone: set[int] = set()  # behind it: to close the gap of each would move all that follow

    def __len__(self) -> int:
        return len(self._ids) - self._head - len(self._gone)

    def __iter__(self) -> Iterator[int]:
        ids, gone = self._ids, self._gone
        return (ids[at] for at in range(self._head, len(ids)) if ids[at] not in gone)

    def __contains__(self, task_id: int) -> bool:
        at = bisect_left(self._ids, task_id, self._head)
        return at < len(self._ids) and self._ids[at] == task_id and task_id not in self._gone

    def add(self, task_id: int) -> None:
        """Put it at its place."""
        ids = self._ids
        if not ids or ids[-1] < task_id:
            ids.append(task_id)
            return
        at = bisect_left(ids, task_id, self._head)
        if ids[at] == task_id:
            self._gone.discard(task_id)
        else:
            ids.insert(at, task_id)

    def discard(self, task_id: int) -> None:
        """Take it out, if it is there."""
        if task_id not in self:
            return
        self._gone.add(task_id)
        while self._head < len(self._ids) and self._ids[self._head] in self._gone:
            self._gone.discard(self._ids[self._head])
            self._head += 1
        if 2 * (self._head + len(self._gone)) > len(self._ids):
            # They mostly go from the front: then this is a copy of memory. One by one, 300,000 took 16 ms.
            self._ids = array("q", self) if self._gone else self._ids[self._head :]
            self._head, self._gone = 0, set()


class Stranded:
    """The piles, by the numbers of the kinds."""

    def __init__(self) -> None:
        self._piles: dict[int, Pile] = {}

    def __len__(self) -> int:
        return sum(map(len, self._piles.values()))

    def __iter__(self) -> Iterator[int]:
        for pile in self._piles.values():
            yield from pile

    def __contains__(self, task_id: int) -> bool:
        return any(task_id in pile for pile in self._piles.values())

    def add(self, kind: int, task_ids: Iterable[int]) -> None:
        """These tasks have no handler."""
        pile = self._piles.setdefault(kind, Pile())
        for task_id in task_ids:
            pile.add(task_id)

    def discard(self, task_id: int) -> None:
        """The task has ended, if it was here."""
        for kind, pile in list(self._piles.items()):
            pile.discard(task_id)
            if not len(pile):
                del self._piles[kind]

    def oldest(self) -> int | None:
        """The smallest id."""
        return min((next(iter(pile)) for pile in self._piles.values()), default=None)

    def some(self, kinds: Collection[int], limit: int) -> list[int]:
        """At most `limit` tasks of these kinds; they stay."""
        found: list[int] = []
        for kind in self._piles.keys() & set(kinds):
            found += (task_id for task_id, _ in zip(self._piles[kind], range(limit - len(found)), strict=False))
        return found

    def take_out(self, strangers: Collection[int]) -> list[int]:
        """Remove and return the tasks of all other kinds, in order."""
        served = [self._piles.pop(kind) for kind in self._piles.keys() - set(strangers)]
        return sorted(task_id for pile in served for task_id in pile)
