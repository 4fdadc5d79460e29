"""Flow: the next tasks in order, through the gate, into slots. The only code that grants leases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from operator import itemgetter
from typing import Protocol

from ringq import failpoint
from ringq.backlog import Backlog
from ringq.entries import TASK_ID, Row
from ringq.gate import Gate
from ringq.lane import Lane
from ringq.lifecycle import Interruptions
from ringq.merge import CHUNK_ROWS, KIND, Merge, Share
from ringq.pace import UNKNOWN_US, Pace, Room
from ringq.places import Place, Places
from ringq.ranking import Ranking
from ringq.sharing import FairMerge, Sharing
from ringq.stranded import Stranded

LOOKAHEAD_US_MAX = 100_000.0
TURN_KEPT = 0.98  # of the longest turn, after each: half of it after 35 turns
LOOKS_AT_ONCE = 2048  # at lanes, in a turn that publishes: some 10 ms, where each of many groups has one
GRANTS_MAX = 1 << 32  # grants of one epoch: the low half of a lease
PRIORITY = itemgetter(0)


class Publisher(Protocol):
    """What the dispatcher needs of the ring."""

    def publish(self, tasks: Sequence[Row], first_lease: int) -> int: ...
    def ready(self) -> int: ...
    def in_flight(self) -> int: ...


class Dispatcher:
    """Keeps as many slots READY as the workers will need in the next few milliseconds, and no more.

    A deeper ring would let an urgent task queue behind others that were published before it; a shallower one would
    let workers wait for the loop. So it is as deep as twice the loop's longest turn of late, at least `lookahead_ms`.
    """

    def __init__(
        self, ring: Publisher, backlog: Backlog, gate: Gate, *, epoch: int, lookahead_ms: float,
        keyed: Set[int] = frozenset(),
    ) -> None:  # fmt: skip
        """`keyed`: the active tasks that have keys, which changes as they do."""
        self.ring = ring
        self.backlog = backlog
        self.gate = gate
        self.pace = Pace()
        self.sharing = Sharing(self.pace)
        self.ranking: Ranking | None = None  # set where waiting makes tasks more urgent
        self.urgent_upto: int | None = None  # set where tasks as urgent as this, or more, may displace others
        self.urgent: dict[int, int] = {}  # the priorities of those of them that were published and have not come back
        self._first_lease = epoch << 32
        self._grants = 0
        self._lookahead_us = self._lookahead_us_min = lookahead_ms * 1000
        self._longest_turn_us = 0.0
        self._keyed = keyed
        self._out: set[int] = set()  # of those, what was published and has not come back
        self._alone: set[int] = set()
        self._running_alone: int | None = None
        self._mean_published_us = UNKNOWN_US  # of the last chunk: what a READY task is expected to take
        self._strangers: frozenset[int] = frozenset()  # kinds that the app of these workers has no handler for
        self.stranded = Stranded()  # pending tasks of such kinds
        self.heard: Callable[[Sequence[Row]], None] | None = None  # set while somebody wants to know what is published
        self.is_cut = False  # whether the last `fill` met so much that it went no further, and must be called again

    def learn(self, strangers: frozenset[int]) -> list[int]:
        """These kinds have no handler: their tasks stay pending, out of the way of others.

        Returns the tasks of other kinds that were out of the way until now, to be given back.
        """
        self._strangers = strangers
        return self.stranded.take_out(strangers)

    def note_turn(self, turn_ns: int) -> None:
        """A turn of the loop took so long: as long may the workers be on their own."""
        turn_us = min(turn_ns / 1000, LOOKAHEAD_US_MAX / 2)
        self._longest_turn_us = max(turn_us, self._longest_turn_us * TURN_KEPT)
        self._lookahead_us = max(self._lookahead_us_min, 2 * self._longest_turn_us)

    @property
    def lookahead_ms(self) -> float:
        """For how long the workers' READY tasks should last now."""
        return self._lookahead_us / 1000

    def begin(self, ring: Publisher, epoch: int) -> None:
        """Go on with a new segment; nothing is published in it yet."""
        self.ring = ring
        self._first_lease, self._grants = epoch << 32, 0
        self._running_alone = None
        self._out = set()
        self.urgent.clear()

    @property
    def places(self) -> Places:
        """Which tasks have lanes of their own."""
        return self.backlog.places

    def is_out(self, task_id: int) -> bool:
        """Whether a keyed task was published, and nothing that came of it is committed."""
        return task_id in self._out

    def came_back(self, task_ids: Iterable[int]) -> None:
        """What came of these attempts is committed, or they were revoked."""
        if self._out:
            self._out.difference_update(task_ids)

    def withdraw(self, task_id: int, place: Place) -> bool:
        """See to it that a pending task is not published. False if its lane has given it out: nobody serves it."""
        if task_id in self.stranded:
            return False
        self.backlog.remove(place, task_id)
        return True

    @property
    def running_alone(self) -> int | None:
        """The task that has the whole pool for itself now, if one has."""
        return self._running_alone

    @property
    def is_exhausted(self) -> bool:
        """True when this epoch has no grants left (after four billion tasks): a new epoch must begin."""
        return self._grants >= GRANTS_MAX - (1 << 20)

    def run_alone(self, task_id: int) -> None:
        """From now on this task gets the whole pool when it runs, so that nobody else can be blamed for its end."""
        self._alone.add(task_id)

    def run_lost_alone(self, interruptions: Mapping[int, Interruptions], lost_max: int) -> None:
        """Those of these tasks that were lost so often run alone: nobody knows whose fault that was."""
        for task_id, own in interruptions.items():
            if own.lost >= lost_max:
                self.run_alone(task_id)

    def forget(self, task_ids: Iterable[int]) -> None:
        """These tasks have ended."""
        if self._alone:
            self._alone.difference_update(task_ids)

    def ended(self, task_ids: Iterable[int]) -> None:
        """The attempts of these tasks are over: their limits are free."""
        task_ids = list(task_ids)
        self.gate.ended(task_ids)
        if self.sharing.is_on:
            self.sharing.ended(task_ids)
        if self.urgent:
            for task_id in task_ids:
                self.urgent.pop(task_id, None)
        if self._running_alone in task_ids:
            self._running_alone = None

    def fill(self, workers: int, uncommitted: int, now_us: int = 0) -> int:
        """Publish what `workers` can use soon; `uncommitted` slots hold receipts not yet committed.

        `now_us`, by the wall clock, is asked for where waiting makes tasks more urgent. Returns the number of tasks
        published.
        """
        self.backlog.sort()
        self.is_cut = not self.backlog.is_sorted
        if workers == 0 or self._running_alone is not None:
            return 0
        published = 0
        if self.ranking is not None:
            self.ranking.begin(now_us)
        ready = self.ring.ready()
        busy = self.ring.in_flight() - ready - uncommitted
        room = Room(workers - busy - ready, workers * self._lookahead_us - ready * self._mean_published_us)
        blocked: set[Lane] = set()
        looks = LOOKS_AT_ONCE
        while not room.is_full and (shares := self._shares(blocked)):
            looks -= len(shares)
            source = self._source(shares)
            rows = self._next_rows(source, room)
            for _, share in shares:
                for kind, task_ids in share.stranded.items():
                    self.stranded.add(kind, task_ids)
                self.is_cut |= share.is_cut
                if share.is_refused or share.is_cut:
                    blocked.add(share.lane)
            if rows is None:
                break  # the next in order must wait, so all behind it do
            if not rows:
                blocked.update(share.lane for _, share in shares)  # their heads are refused, have ended, or no handler
                continue
            count = self._publish(source, rows)
            if self.urgent_upto is not None:
                self._note_urgent(shares)
            published += count
            if count < len(rows) or self._running_alone is not None:
                break
            if looks < 0:
                self.is_cut = True
                break
        return published

    def _shares(self, blocked: Set[Lane]) -> list[tuple[int, Share]]:
        """What may be given next, with the priorities that it counts as: the most urgent, or of all groups."""
        lanes = [lane for lane in self.backlog.lanes() if lane not in blocked]
        ranking = self.ranking
        ranked = [(lane.place.priority if ranking is None else ranking.priority(lane), lane) for lane in lanes]
        if len(ranked) > 1 and not self.sharing.is_on:
            first = min(map(PRIORITY, ranked))
            ranked = [entry for entry in ranked if entry[0] == first]
        bounds = [None if ranking is None else ranking.bound(lane, priority) for priority, lane in ranked]
        return [
            (priority, Share(lane, self.gate, self._strangers, bound))
            for (priority, lane), bound in zip(ranked, bounds, strict=True)
        ]

    def _source(self, shares: list[tuple[int, Share]]) -> Merge:
        if not self.sharing.is_on:
            return Merge([share for _, share in shares])
        return FairMerge(shares, self.sharing, None if self.ranking is None else self.ranking.aging.urgent)

    def _note_urgent(self, shares: Iterable[tuple[int, Share]]) -> None:
        for _, share in shares:
            priority = share.lane.place.priority
            if self.urgent_upto is not None and priority <= self.urgent_upto:
                self.urgent.update(dict.fromkeys(map(TASK_ID, share.taken), priority))

    def _next_rows(self, source: Merge, room: Room) -> list[Row] | None:
        """The next rows that there is room for; None when there is no room, or one must wait to be alone."""
        rows = source.take(1)
        if not rows:
            return []
        if self._alone and rows[0][0] in self._alone and self.ring.in_flight() > 0:
            source.put_back(rows)
            return None
        wanted = 1 if self._alone else min(CHUNK_ROWS, room.estimate(self.pace.expected_us(rows[0][1])))
        if wanted > 1:
            rows += source.take(wanted - 1)
        kinds = set(map(KIND, rows))
        if len(kinds) == 1:
            count = room.take_alike(self.pace.expected_us(kinds.pop()), len(rows))
        else:
            count = room.take([self.pace.expected_us(row[1]) for row in rows])
        if count:
            self._mean_published_us = room.last_mean_us
        if count == len(rows):
            return rows
        source.put_back(rows[count:])
        return rows[:count] or None

    def _publish(self, source: Merge, rows: list[Row]) -> int:
        failpoint.hit("dispatch.before_publish")
        count = self.ring.publish(rows, self._first_lease + self._grants)
        self._grants += count
        if self._keyed:
            self._out.update(self._keyed & set(map(TASK_ID, rows[:count])))
        if count < len(rows):
            source.put_back(rows[count:])  # no slot, cell or block is free
        elif self._alone and rows[0][0] in self._alone:
            self._running_alone = rows[0][0]
        source.started()
        if self.heard is not None and count:
            self.heard(rows[:count])
        failpoint.hit("dispatch.after_publish")
        return count
