"""Flow: what lanes give to one chunk of tasks, in order of id, through the gate."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ringq.backlog import TASK_ID, Lane, Row
from ringq.gate import Gate

STRANGERS_AT_ONCE = 1024  # to read 10^6 of them in one turn would stop the loop for seconds
CHUNK_ROWS = 256  # one publish call; the estimate of a task's length is looked at again for each


class Share:
    """What one lane gives to a chunk, in order of id: as much as the gate admits when its turn comes.

    Together no more than CHUNK_ROWS may be asked for.
    """

    __slots__ = ("_gate", "_left", "_strangers", "_taken", "is_cut", "is_refused", "lane", "stranded")

    def __init__(self, lane: Lane, gate: Gate, strangers: frozenset[int]) -> None:
        self.lane = lane
        self._gate = gate
        self._strangers = strangers
        self._left: int | None = None  # of what was admitted; None: its turn has not come yet
        self._taken: list[Row] = []
        self.is_refused = self.is_cut = False
        self.stranded: dict[int, list[int]] = {}  # met on the way: tasks of kinds that have no handler, by kind

    @property
    def head(self) -> int | None:
        """The smallest id that it may give; None when there is none."""
        return None if self._left == 0 else self.lane.head

    def take(self, limit: int, before: int | None = None) -> list[Row]:
        """Remove and return the next `limit` tasks with ids below `before`, or all there are."""
        if self._left is None:
            self._left = max(0, self._gate.admit(self.lane.queue, CHUNK_ROWS))
            self.is_refused = self._left == 0
        limit = min(limit, self._left)
        rows = self.lane.take(limit, before)
        if self._strangers:
            rows = self._without_strangers(rows, limit, before)
        self._left = 0 if self.is_cut else self._left - len(rows)
        self._taken += rows
        return rows

    def put_back(self, rows: Sequence[Row]) -> None:
        """Put back those of `rows`, the last that were taken, that are of this lane."""
        at = bisect_left(self._taken, rows[0][0], key=TASK_ID)
        ours = self._taken[at:]
        if self._left is not None and ours:
            self._left += len(ours)
            self.lane.put_back(ours)
            del self._taken[at:]

    def started(self) -> None:
        """All that were taken, and not put back, are published."""
        self._gate.started(self.lane.queue, map(TASK_ID, self._taken))

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


class Merge:
    """What several lanes of one priority give to a chunk, in order of id; as a Share of all of them.

    A queue that is refused, or has been given all that it may have, holds up no other. No two of the lanes are of one
    queue: what the gate admits to one is nothing to the others.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        self._shares = shares

    def take(self, limit: int) -> list[Row]:
        """Remove and return the next `limit` tasks, or all there are.

        Ids are unique, so below (the smallest + limit) there are no more than `limit`: these are taken from each lane
        at once, and sorted. Where ids are sparse, it looks further. Two lanes whose ids alternate cost 0.2 us a task;
        a chunk for each stretch of one lane cost 5.8.
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

    def put_back(self, rows: Sequence[Row]) -> None:
        """Put back `rows`, the last that were taken."""
        if rows:
            for share in self._shares:
                share.put_back(rows)

    def started(self) -> None:
        """All that were taken, and not put back, are published."""
        for share in self._shares:
            share.started()
