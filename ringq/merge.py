"""Flow: what lanes give to one chunk of tasks, in order of id, through the gate."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from operator import itemgetter

from ringq.entries import TASK_ID, Row
from ringq.gate import Gate
from ringq.lane import Lane

STRANGERS_AT_ONCE = 1024  # to read 10^6 of them in one turn would stop the loop for seconds
CHUNK_ROWS = 256  # one publish call; the estimate of a task's length is looked at again for each
KIND = itemgetter(1)  # of a row


class Share:
    """What one lane gives to a chunk, in order of id: as much as the gate admits when its turn comes."""

    __slots__ = ("_bound", "_gate", "_is_free", "_strangers", "is_cut", "is_refused", "lane", "stranded", "taken")

    def __init__(self, lane: Lane, gate: Gate, strangers: frozenset[int], bound: int | None = None) -> None:
        """`bound`: the first id that is less urgent than the chunk; None if none is."""
        self.lane = lane
        self._gate = gate
        self._strangers = strangers
        self._bound = bound
        self._is_free = gate.is_free(lane.place)
        self.taken: list[Row] = []
        self.is_refused = self.is_cut = False
        self.stranded: dict[int, list[int]] = {}  # met on the way: tasks of kinds that have no handler, by kind

    def has_room(self, count: int) -> bool:
        """Whether the gate refuses nothing as long as no more than so many are taken, from whatever lanes."""
        return self._is_free or self._gate.has_room(self.lane.place, count)

    @property
    def head(self) -> int | None:
        """The smallest id that it may give; None when there is none."""
        head = None if self.is_refused or self.is_cut else self.lane.head
        return None if head is None or (self._bound is not None and head >= self._bound) else head

    def take(self, limit: int, before: int | None = None) -> list[Row]:
        """Remove and return the next `limit` tasks with ids below `before`, or all there are."""
        if self.is_refused or self.is_cut:
            return []
        if self._bound is not None:
            before = self._bound if before is None else min(before, self._bound)
        if not self._is_free:
            limit = self._gate.admit(self.lane.place, limit)
            self.is_refused = limit <= 0
            if self.is_refused:
                return []
        rows = self.lane.take(limit, before)
        if self._strangers:
            rows = self._without_strangers(rows, limit, before)
        if not self._is_free and len(rows) < limit:
            self._gate.release(self.lane.place, limit - len(rows))
        self.is_cut |= not rows and not self.lane.is_sorted
        self.taken += rows
        return rows

    def put_back(self, ids: Collection[int]) -> None:
        """Put back those of these tasks that are of this lane; they are the last that were taken.

        What the gate has refused for their sake, here or in another lane, it may admit then.
        """
        taken = self.taken
        self.is_refused = False
        count = 0
        while count < len(taken) and taken[-1 - count][0] in ids:
            count += 1
        if count:
            self.lane.put_back(taken[-count:])
            del taken[-count:]
            if not self._is_free:
                self._gate.release(self.lane.place, count)

    def started(self) -> None:
        """All that were taken, and not put back, are published."""
        if not self._is_free and self.taken:
            self._gate.started(self.lane.place, map(TASK_ID, self.taken))

    def _without_strangers(self, rows: list[Row], limit: int, before: int | None) -> list[Row]:
        """The tasks among `rows` that have a handler, and others instead of those that have none."""
        served: list[Row] = []
        met = 0
        while rows:
            found = [row for row in rows if row[1] in self._strangers]
            for row in found:
                self.stranded.setdefault(row[1], []).append(row[0])
            served += [row for row in rows if row[1] not in self._strangers]
            met += len(found)
            self.is_cut = met >= STRANGERS_AT_ONCE
            rows = [] if self.is_cut else self.lane.take(limit - len(served), before)
        return served


def has_room(shares: Sequence[Share], limit: int) -> bool:
    """Whether nothing is refused while `limit` tasks are taken from these together: the order asks nothing of the gate.

    From each as many may be taken as from all, before some are put back.
    """
    count = limit * len(shares)
    return all(share.has_room(count) for share in shares)


class Merge:
    """What several lanes of one priority give to a chunk, in order of id.

    A lane that is refused, or has given all that it may, holds up no other.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        self._shares = shares

    def take(self, limit: int) -> list[Row]:
        """Remove and return the next `limit` tasks, or all there are."""
        if len(self._shares) == 1:
            return self._shares[0].take(limit)
        return self._take_free(limit) if has_room(self._shares, limit) else self._take_in_turns(limit)

    def put_back(self, rows: Sequence[Row]) -> None:
        """Put back `rows`, the last that were taken."""
        if rows:
            ids = set(map(TASK_ID, rows))
            for share in self._shares:
                share.put_back(ids)

    def started(self) -> None:
        """All that were taken, and not put back, are published."""
        for share in self._shares:
            share.started()

    def _take_free(self, limit: int) -> list[Row]:
        """From all lanes at once.

        Ids are unique, so below (the smallest + limit) there are no more than `limit`: these are taken from each lane,
        and sorted. Where ids are sparse, it looks further. Two lanes whose ids alternate cost 0.5 us a task; a chunk
        for each stretch of one lane cost 5.8.
        """
        rows: list[Row] = []
        span = limit
        while (missing := limit - len(rows)) > 0:
            heads = sorted((head, at) for at, share in enumerate(self._shares) if (head := share.head) is not None)
            if not heads:
                break
            # up to the second head there are tasks of the first lane only, however sparse
            before = max(heads[0][0] + span, heads[1][0]) if len(heads) > 1 else None
            found: list[Row] = []
            for head, at in heads:
                if before is None or head < before:
                    found += self._shares[at].take(missing, before)
            found.sort(key=TASK_ID)
            self.put_back(found[missing:])
            del found[missing:]
            rows += found
            if found:
                span = (missing - len(found)) * span // len(found)
        return rows

    def _take_in_turns(self, limit: int) -> list[Row]:
        """One stretch of ids after the other: what the gate admits of one lane may leave less for another."""
        rows: list[Row] = []
        heads = [(head, at) for at, share in enumerate(self._shares) if (head := share.head) is not None]
        heapq.heapify(heads)
        while heads and len(rows) < limit:
            _, at = heapq.heappop(heads)
            share = self._shares[at]
            rows += share.take(limit - len(rows), heads[0][0] if heads else None)
            head = share.head
            if head is not None:
                heapq.heappush(heads, (head, at))
        return rows
