"""Flow: how many slots each group may have now, by weights and minimums, and in which order they start tasks. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ringq.errors import InvalidOption

Group = str | None  # None: the tasks that have none, together

WEIGHT_MIN: Final = 1e-9  # a weight beyond these counts as the nearest: sums and shares stay numbers
WEIGHT_MAX: Final = 1e9
OWED_MAX: Final = 8  # starts of the largest task of late, that a group may be ahead or behind
LARGEST_KEPT: Final = 0.99  # of the largest task of late, at each start: a tenth of it after 230 starts
ROUNDING: Final = 1e-9  # shares nearer to a whole number than this are it


@dataclass(slots=True)
class Demand:
    """What one group is entitled to, and what it wants now. One per group may be kept, its counts set for each call.

    `weight`: above 0, finite. `minimum`: slots it has before anything is divided by weight, 0 or more. `cap`: tasks
    of it that may run at a time, 0 for none, None for any number. `in_use`: its tasks that have been started.
    `pending`: those that could start now, 0 while it is paused. Raises InvalidOption.

    That the minimums are more than there are slots is no mistake, as the number of workers changes: they are granted
    in order of the groups' names while there are slots.
    """

    weight: float = 1.0
    minimum: int = 0
    cap: int | None = None
    in_use: int = 0
    pending: int = 0

    def __post_init__(self) -> None:
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise InvalidOption(f"weight: expected a number above 0, got {weight!r:.80}")
        if not _is_count(self.minimum):
            raise InvalidOption(f"minimum: expected a number of slots, 0 or more, got {self.minimum!r:.80}")
        if self.cap is not None and not _is_count(self.cap):
            raise InvalidOption(f"cap: expected a number of tasks, 0 or more, or None, got {self.cap!r:.80}")
        self.weight = min(max(weight, WEIGHT_MIN), WEIGHT_MAX)


class Credits:
    """What the groups that wait are ahead or behind of their shares, because slots are whole and shares are not.

    Each start is charged to its group, and earned by all that wait, by their shares; so with shares of 1.5 and 0.5
    slots three starts come to one. A group that has nothing it may start earns nothing, loses what it is owed, and is
    forgiven what it owes as the others go on. Kept from one `allocate` to the next; taskmill has no such thing.
    """

    def __init__(self) -> None:
        self._owed: dict[Group, float] = {}  # of those that wait, in the unit of `cost`; their sum is about 0
        self._shares: dict[Group, float] = {}  # of those that wait: slots
        self._short: dict[Group, float] = {}  # of those that wait: their shares, less what they have in use
        self._debts: dict[Group, tuple[float, float]] = {}  # of those that do not: owed by them, shares until then
        self._started: dict[Group, float] = {}
        self._largest = 0.0

    def started(self, group: Group, count: int = 1, cost: float = 1.0) -> None:
        """So many tasks of this group have been started; call it for all that were, also beyond their shares.

        `cost`: what each is expected to take of a worker's time, above 0, in one unit for all groups. If it is always
        the same, groups start tasks in proportion to their shares; if it is the expected duration, they hold slots so.
        """
        self._started[group] = self._started.get(group, 0.0) + count * cost
        self._largest = max(cost, self._largest * LARGEST_KEPT**count)

    def owed(self, group: Group) -> float:
        """How many starts, of the largest task of late, the group is behind its share; below 0 if it is ahead."""
        return self._owed.get(group, 0.0) / self._largest if self._largest else 0.0

    def rank(self, group: Group) -> tuple[bool, float]:
        """Who is first where that is free to choose, the smaller: a whole slot short, then by slots and starts."""
        short = self._short.get(group, 0.0)
        return short < 1 - ROUNDING, -round(short + self.owed(group), 9)

    def added_to(self, remainders: dict[Group, float]) -> dict[Group, float]:
        """These parts of a slot and what the groups are owed, as `owed` tells it."""
        if not self._largest:
            return remainders
        owed, scale = self._owed, 1 / self._largest
        return {group: rest + owed[group] * scale if group in owed else rest for group, rest in remainders.items()}

    def clear(self) -> None:
        """Nobody waits for anybody."""
        self._owed, self._shares, self._short, self._debts, self._started = {}, {}, {}, {}, {}

    def settle(self) -> None:
        """Charge what was started since the last time, by the shares of that time."""
        started, self._started = self._started, {}
        # These sums do not depend on the order of the groups, so neither do the rankings of nearly equal ones.
        total = math.fsum(self._shares.values())
        if not started or not total:
            return
        charged = math.fsum([cost for group, cost in started.items() if group in self._shares])
        gain = (charged - math.fsum(self._owed.values())) / total
        most = OWED_MAX * self._largest
        for group, share in self._shares.items():
            owed = self._owed[group] + gain * share - started.get(group, 0.0)
            self._owed[group] = min(max(owed, -most), most)
        if self._debts:
            forgiven = charged / total
            debts = {group: (debt + forgiven * share, share) for group, (debt, share) in self._debts.items()}
            self._debts = {group: debt for group, debt in debts.items() if debt[0] < 0}

    def share(self, shares: dict[Group, float], short: dict[Group, float]) -> None:
        """From now on these groups wait, and what is started is to be divided in the proportions of `shares`.

        `short`: these shares, less what each has in use.
        """
        if shares.keys() != self._shares.keys():
            for group in self._shares.keys() - shares.keys():
                owed = self._owed.pop(group)
                if owed < 0:
                    self._debts[group] = owed, self._shares[group]
            for group in shares.keys() - self._shares.keys():
                self._owed[group] = max(self._debts.pop(group, (0.0, 0.0))[0], -OWED_MAX * self._largest)
        self._shares, self._short = shares, short


def allocate(capacity: int, demands: Mapping[Group, Demand], carried: Credits) -> dict[Group, int]:
    """How many of `capacity` slots each group may have, those that it has in use included.

    Minimums first; the rest by weight, none beyond what it could use; what these leave goes to the others, by weight
    again. The slots that are left by rounding down go to the largest remainders with what the groups are owed, ties
    by name, those without a group first. So all slots are given out while anyone can use them, and of those that are
    not at their limits, each group has its exact share, rounded up or down. Who has more in use than that keeps it,
    and others wait meanwhile. Asking again changes nothing until something is started.

    `capacity`: 0 or more. Takes 5 us for two groups, 15 us for ten and 0.7 ms for a thousand that want more than there
    is; 1.5 us for two if there is enough.

    As in taskmill 0.7, but that credits carry what was rounded from one call to the next, and that surplus is divided
    by weight where taskmill gives it to the first group that can use it.
    """
    carried.settle()
    limits: dict[Group, int] = {}
    waiting = []
    for group, demand in demands.items():
        limit = demand.in_use + demand.pending
        if demand.cap is not None and limit > demand.cap:
            limit = demand.cap
        limits[group] = limit
        if limit > demand.in_use:
            waiting.append(group)
    if sum(limits.values()) <= capacity:
        carried.clear()
        return limits
    slots = _minimums(capacity, demands, limits)
    left = capacity - sum(slots.values())
    partial = [
        (group, demands[group].weight, room) for group, limit in limits.items() if (room := limit - slots[group])
    ]
    while True:  # at most once per slot, as who leaves takes one: two or three times in practice
        per_weight = left / math.fsum([weight for _, weight, _ in partial])
        full = [entry for entry in partial if entry[2] <= entry[1] * per_weight]
        if not full:
            break
        for group, _, room in full:
            slots[group] += room
            left -= room
        partial = [entry for entry in partial if entry[2] > entry[1] * per_weight]
    fractions = {group: weight * per_weight for group, weight, _ in partial}
    shares = {group: slots[group] + fractions.get(group, 0.0) for group in waiting}
    carried.share(shares, {group: share - demands[group].in_use for group, share in shares.items()})
    _round(slots, left, fractions, carried)
    return slots


def free(slots: Mapping[Group, int], demands: Mapping[Group, Demand]) -> dict[Group, int]:
    """How many tasks more each group may start: what it has been given and does not use; the groups that may."""
    return {group: count - demands[group].in_use for group, count in slots.items() if count > demands[group].in_use}


def interleave(grants: Mapping[Group, int], carried: Credits) -> Iterator[Group]:
    """The groups in the order in which they start the tasks granted to them, one entry for each task.

    However far one gets, each group has had its part of what was given out, by its part of the grants, give or take
    less than one. Where that leaves a choice, who has a whole slot less than its share is first, then who is short of
    more slots and starts together, then by name.
    """
    total = sum(grants.values())
    # The n-th task of a group has a window of turns around its ideal place. The earliest end of those that are open
    # first: that meets all of them, as for periodic tasks on one processor (Baruah et al., proportionate progress).
    ready: list[tuple[int, bool, float, bool, str, int]] = []
    opening = [(0, *carried.rank(group), *_order(group), 1) for group, count in grants.items() if count > 0]
    heapq.heapify(opening)
    for turn in range(total):
        while opening and opening[0][0] <= turn:
            _, later, claim, named, name, nth = heapq.heappop(opening)
            count = grants[name if named else None]
            heapq.heappush(ready, (-(-nth * total // count), later, claim, named, name, nth))
        _, later, claim, named, name, nth = heapq.heappop(ready)
        group = name if named else None
        if nth < grants[group]:
            heapq.heappush(opening, (nth * total // grants[group], later, claim, named, name, nth + 1))
        yield group


def _minimums(capacity: int, demands: Mapping[Group, Demand], limits: Mapping[Group, int]) -> dict[Group, int]:
    slots = dict.fromkeys(limits, 0)
    for group in sorted([group for group, demand in demands.items() if demand.minimum], key=_order):
        slots[group] = min(demands[group].minimum, limits[group], capacity)
        capacity -= slots[group]
    return slots


def _round(slots: dict[Group, int], left: int, fractions: Mapping[Group, float], carried: Credits) -> None:
    """Add these shares of what is left, in whole slots, to what each group has."""
    remainders = {}
    for group, share in fractions.items():
        whole = int(share + ROUNDING)
        if whole:
            slots[group] += whole
            left -= whole
        if share - whole > ROUNDING:
            remainders[group] = share - whole
    if left:
        for group in _largest(carried.added_to(remainders), left):
            slots[group] += 1


def _largest(ranks: dict[Group, float], count: int) -> list[Group]:
    """The `count` groups with the largest ranks; of those that are as good as equal, the first by name."""
    least = max(ranks.values()) if count == 1 else heapq.nlargest(count, ranks.values())[-1]
    above = [group for group, rank in ranks.items() if rank > least + ROUNDING]
    equal = [group for group, rank in ranks.items() if least - ROUNDING <= rank <= least + ROUNDING]
    return above + heapq.nsmallest(count - len(above), equal, key=_order) if len(equal) > 1 else above + equal


def _order(group: Group) -> tuple[bool, str]:
    return group is not None, group or ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
