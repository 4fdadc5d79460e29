"""Flow: who gives how much to a chunk of tasks where groups share the workers by weights.

urgent ──► by weight and minimum ──► whoever else may start          in this order, each as far as there is room
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import groupby
from typing import Any

from ringq.entries import TASK_ID, Row
from ringq.fairness import Credits, Demand, Group, allocate, free, interleave
from ringq.merge import KIND, Merge, Share, has_room
from ringq.pace import Pace
from ringq.places import Place


class Sharing:
    """What groups hold and are owed. Off, at no cost, until a weight or a minimum is said."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._weights: Mapping[str, Any] = {}
        self._caps: Mapping[str, int] = {}
        self._credits = Credits()
        self._in_use: Counter[Group] = Counter()
        self._group_of: dict[int, Group] = {}
        self._known: dict[Group, Demand] = {}  # checked once, not for each chunk

    @property
    def is_on(self) -> bool:
        """Whether groups share by weights."""
        return bool(self._weights)

    def follow(self, weights: Mapping[str, Any], caps: Mapping[str, int], running: Iterable[tuple[int, Place]]) -> None:
        """From now on groups have these weights and minimums, and limits; these tasks run, and no others."""
        self._weights, self._caps = weights, caps
        self._credits.clear()
        self._known = {}
        self._group_of = {task_id: place.group for task_id, place in running} if weights else {}
        self._in_use = Counter(self._group_of.values())

    def started(self, group: Group, rows: Sequence[Row]) -> None:
        """These tasks are published."""
        self._in_use[group] += len(rows)
        self._group_of.update(dict.fromkeys(map(TASK_ID, rows), group))
        for kind, count in Counter(map(KIND, rows)).items():
            self._credits.started(group, count, self._pace.expected_us(kind))

    def ended(self, task_ids: Iterable[int]) -> None:
        """The attempts of these tasks are over."""
        for task_id in task_ids:
            if task_id in self._group_of:
                group = self._group_of.pop(task_id)
                self._in_use[group] -= 1
                if not self._in_use[group]:
                    del self._in_use[group]  # there may be as many groups as customers

    def order(self, pending: Mapping[Group, int], taken: Mapping[Group, int], count: int) -> Iterable[Group]:
        """The groups that start the next `count` tasks, in order, as far as their shares go.

        `taken`: so many of them are about to start, besides those that were `started`.
        """
        demands = self._demands(pending, taken)
        slots = allocate(sum(demand.in_use for demand in demands.values()) + count, demands, self._credits)
        return interleave(free(slots, demands), self._credits)

    def describe(self, pending: Mapping[Group, int], capacity: int) -> list[dict[str, Any]]:
        """Each group with what it may have of so many places now; as JSON takes it."""
        demands = self._demands(pending, {})
        # Of a copy: to be asked must not change what groups are owed.
        slots = allocate(max(capacity, sum(self._in_use.values())), demands, deepcopy(self._credits))
        return [
            {
                "group": group, "weight": demand.weight, "min_slots": demand.minimum, "max_concurrency": demand.cap,
                "allocated": slots[group], "in_use": demand.in_use, "pending": demand.pending,
            }
            for group, demand in sorted(demands.items(), key=lambda entry: entry[0] or "")
        ]  # fmt: skip

    def _demands(self, pending: Mapping[Group, int], taken: Mapping[Group, int]) -> dict[Group, Demand]:
        known, self._known = self._known, {}
        for group in {*pending, *taken, *self._in_use}:
            demand = self._known[group] = known.get(group) or self._demand(group)
            demand.in_use, demand.pending = self._in_use[group] + taken.get(group, 0), pending.get(group, 0)
        return self._known

    def _demand(self, group: Group) -> Demand:
        said = None if group is None else self._weights.get(group)
        cap = None if group is None else self._caps.get(group)
        return Demand(cap=cap) if said is None else Demand(said.weight, said.min_slots, cap)


class Tiers:
    """Shares in order of priority, and of id in each. As a Merge."""

    def __init__(self, shares: Iterable[tuple[int, Share]]) -> None:
        by_priority: dict[int, list[Share]] = defaultdict(list)
        for priority, share in shares:
            by_priority[priority].append(share)
        self._merges = [Merge(by_priority[priority]) for priority in sorted(by_priority)]

    def take(self, limit: int) -> list[Row]:
        """Remove and return the next `limit` tasks, or all there are."""
        rows: list[Row] = []
        for merge in self._merges:
            if len(rows) == limit:
                break
            rows += merge.take(limit - len(rows))
        return rows


class FairMerge(Merge):
    """What lanes give to a chunk where groups share by weights."""

    def __init__(self, shares: Sequence[tuple[int, Share]], sharing: Sharing, urgent: int | None) -> None:
        """`shares` with the priorities that they count as; those up to `urgent` are given before all others."""
        super().__init__([share for _, share in shares])
        self._sharing = sharing
        self._ranked = shares
        self._urgent = [] if urgent is None else [entry for entry in shares if entry[0] <= urgent]
        self._by_group: dict[Group, list[tuple[int, Share]]] = defaultdict(list)
        for entry in shares:
            self._by_group[entry[1].lane.place.group].append(entry)
        self._tiers: dict[Group, Tiers] = {}  # of those that give something: there may be as many as customers

    def take(self, limit: int) -> list[Row]:
        """Remove and return the next `limit` tasks, or all there are."""
        rows = Tiers(self._urgent).take(limit)
        if len(rows) < limit:
            pending: Counter[Group] = Counter()
            taken: Counter[Group] = Counter()  # else the first task of a chunk, which is taken alone, counts for nobody
            for share in self._shares:
                taken[share.lane.place.group] += len(share.taken)
                if share.head is not None:
                    pending[share.lane.place.group] += len(share.lane)
            order = self._sharing.order(pending, taken, limit - len(rows))
            rows += self._give_at_once(order) if has_room(self._shares, limit) else self._give_in_turns(order)
        if len(rows) < limit:
            rows += Tiers(self._ranked).take(limit - len(rows))
        return rows

    def _give_at_once(self, order: Iterable[Group]) -> list[Row]:
        """As in turns, where nobody can take what is another's: to look into a lane for each task costs 2 us."""
        order = list(order)
        given = {group: iter(self._of(group).take(count)) for group, count in Counter(order).items()}
        found = (next(given[group], None) for group in order)
        return [row for row in found if row is not None]

    def _give_in_turns(self, order: Iterable[Group]) -> list[Row]:
        rows: list[Row] = []
        for group, own in groupby(order):
            rows += self._of(group).take(sum(1 for _ in own))
        return rows

    def _of(self, group: Group) -> Tiers:
        tiers = self._tiers.get(group)
        if tiers is None:
            tiers = self._tiers[group] = Tiers(self._by_group[group])
        return tiers

    def started(self) -> None:
        """All that were taken, and not put back, are published."""
        super().started()
        for share in self._shares:
            if share.taken:
                self._sharing.started(share.lane.place.group, share.taken)
