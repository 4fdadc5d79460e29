"""Flow: may tasks of a lane start now, and how many? Every refusal has a named reason.

served ─► paused ─► cooling ─► pressure ─► budgets ─► limits ─► rates     in this order: no token is spent in vain
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from ringq.places import Place

UNSERVED_MAX = 1000  # named of them: any client may name a new queue
DOORS_MAX = 100_000  # places whose checks are kept


class Refusal(enum.StrEnum):
    """Why a candidate may not start now."""

    QUEUE_NOT_SERVED = "queue_not_served"
    SERVER_PAUSED = "server_paused"
    DOMAIN_PAUSED = "domain_paused"
    GROUP_PAUSED = "group_paused"
    QUEUE_PAUSED = "queue_paused"
    QUEUE_COOLING = "queue_cooling"
    PRESSURE = "pressure"
    IO_BUDGET = "io_budget"
    SERVER_FULL = "server_full"
    QUEUE_FULL = "queue_full"
    DOMAIN_FULL = "domain_full"
    GROUP_FULL = "group_full"
    KIND_FULL = "kind_full"
    RATE = "rate"


SCOPES = ("server", "queue", "domain", "group", "kind")
PAUSED = {scope: Refusal(f"{scope}_paused") for scope in SCOPES[:-1]}
FULL = {scope: Refusal(f"{scope}_full") for scope in SCOPES}


class Pressing(Protocol):
    """What the gate asks of the pressure on this machine."""

    def concerns(self, priority: int) -> bool:
        """Whether not all of this stored priority may start now that would."""

    def refuses(self, priority: int) -> bool:
        """Whether none of it may start now."""

    def room(self, priority: int, wanted: int) -> int:
        """How many of `wanted` may start now: all, none, or one because none has for so long."""

    def started(self, priority: int) -> None:
        """One was let through."""

    def give_back(self, priority: int) -> None:
        """It did not start."""


class Tokens(Protocol):
    """What the gate asks of rate limits."""

    def admit(self, kind: str, group: str | None, queue: str, wanted: int) -> int:
        """How many of `wanted` may start now; their tokens are taken."""

    def give_back(self, kind: str, group: str | None, queue: str, count: int) -> None:
        """So many of them did not start."""

    def limits(self, kind: str, group: str | None, queue: str) -> bool:
        """Whether there is a rate for any of these."""


class Bound(Protocol):
    """What bounds how many of something run at a time."""

    reason: Refusal
    used: int

    @property
    def limit(self) -> int:
        """How many may: as it is now."""


class Cap:
    """At most `limit` of something run at a time; `used` do, or are about to."""

    __slots__ = ("limit", "reason", "used")

    def __init__(self, limit: int, reason: Refusal) -> None:
        self.limit = limit
        self.reason = reason
        self.used = 0


class Door(NamedTuple):
    """What is asked of tasks of one place."""

    closed: Refusal | None
    caps: tuple[Bound, ...]
    has_rate: bool
    is_free: bool  # nothing is asked of them


class Hold(NamedTuple):
    """What is against the start of a task: for a limit, how many run and may run."""

    reason: Refusal
    used: int = 0
    limit: int = 0


class Gate:
    """Knows what runs, as far as that is limited.

    Attributes: `refusals`, how often for what reason; `unserved`, queues with tasks that are none of this server's.
    """

    def __init__(self, queues: Iterable[tuple[str, int | None]]) -> None:
        """`queues`: those that are served, with their limits; none given means every queue, without a limit."""
        self._caps: dict[tuple[str, str], Cap] = {}
        self._budgets: dict[str, Bound] = {}
        limits = dict(queues)
        self._served = frozenset(limits)  # empty: all
        self._paused: set[tuple[str, str]] = set()
        self._cooling: set[str] = set()
        self._doors: dict[Place, Door] = {}
        self._of_task: dict[int, tuple[Bound, ...]] = {}  # started tasks with limits only: others cost nothing
        self._tokens: Tokens | None = None
        self.pressure: Pressing | None = None
        self.refusals: Counter[Refusal] = Counter()
        self.unserved: set[str] = set()
        for name, limit in limits.items():
            self.limit("queue", name, limit)

    # -- what is said of it -------------------------------------------------------------------

    def limit(self, scope: str, name: str, limit: int | None) -> None:
        """From now on at most `limit` tasks of it run at a time, None for no limit; `recount` must follow."""
        if limit is None:
            self._caps.pop((scope, name), None)
        elif (scope, name) in self._caps:
            self._caps[scope, name].limit = limit
        else:
            self._caps[scope, name] = Cap(limit, FULL[scope])
        self._doors.clear()

    def budget(self, kind: str, bound: Bound | None) -> None:
        """What is expected of its tasks has to fit beside others, None: has not any more; `recount` must follow."""
        self._budgets.pop(kind, None)
        if bound is not None:
            self._budgets[kind] = bound
        self._doors.clear()

    def pause(self, scope: str, name: str, is_paused: bool) -> None:
        """Start none of its tasks, or start them again."""
        (self._paused.add if is_paused else self._paused.discard)((scope, name))
        self._doors.clear()

    def cool(self, queue: str, is_cooling: bool) -> None:
        """The same, because what its tasks use has asked for a break."""
        if is_cooling != (queue in self._cooling):
            (self._cooling.add if is_cooling else self._cooling.discard)(queue)
            self._doors.clear()

    def ration(self, tokens: Tokens) -> None:
        """There are rates from now on, or others."""
        self._tokens = tokens
        self._doors.clear()

    def recount(self, running: Iterable[tuple[int, Place]]) -> None:
        """These tasks are started, and no others: those that had no limit when they began are counted too."""
        self._of_task.clear()
        for bound in (*self._caps.values(), *self._budgets.values()):
            bound.used = 0
        for task_id, place in running:
            caps = self._caps_of(place)
            if caps:
                self._of_task[task_id] = caps
                _use(caps, 1)

    @property
    def closed(self) -> dict[str, str]:
        """Queues of which no task starts, and why."""
        names = {name for scope, name in self._paused if scope == "queue"} | self._cooling
        return {name: refusal for name in names for refusal in self._closed(Place(0, name))[:1]}

    # -- tasks --------------------------------------------------------------------------------

    def is_free(self, place: Place) -> bool:
        """Whether nothing is asked of the tasks of this place."""
        return self._door(place).is_free and (self.pressure is None or not self.pressure.concerns(place.priority))

    def admit(self, place: Place, wanted: int) -> int:
        """How many of `wanted` tasks of a lane may start now. They count as started until `release`d or `ended`."""
        door = self._door(place)
        if door.closed is not None:
            return self._refuse(door.closed, place)
        if self.pressure is not None:
            wanted = self.pressure.room(place.priority, wanted)
            if wanted <= 0:
                return self._refuse(Refusal.PRESSURE, place)
        for cap in door.caps:
            wanted = min(wanted, cap.limit - cap.used)
            if wanted <= 0:
                return self._refuse(cap.reason, place)
        if door.has_rate and self._tokens is not None:
            wanted = self._tokens.admit(place.kind, place.group, place.queue, wanted)
            if wanted <= 0:
                return self._refuse(Refusal.RATE, place)
        _use(door.caps, wanted)
        if self.pressure is not None:
            self.pressure.started(place.priority)
        return wanted

    def has_room(self, place: Place, count: int) -> bool:
        """Whether so many tasks of this place may start now for sure, in whatever portions it is asked for them."""
        return not self._door(place).has_rate and self.room(place, count) == count

    def room(self, place: Place, wanted: int) -> int:
        """How many of `wanted` tasks of this place may start now, as far as rates let them. Nothing is counted."""
        door = self._door(place)
        if door.closed is not None:
            return 0
        if self.pressure is not None:
            wanted = self.pressure.room(place.priority, wanted)
        return max(0, min([wanted, *(cap.limit - cap.used for cap in door.caps)]))

    def release(self, place: Place, count: int) -> None:
        """So many of those that were admitted did not start."""
        door = self._door(place)
        if count:
            _use(door.caps, -count)
            if door.has_rate and self._tokens is not None:
                self._tokens.give_back(place.kind, place.group, place.queue, count)
            if self.pressure is not None:
                self.pressure.give_back(place.priority)

    def started(self, place: Place, task_ids: Iterable[int]) -> None:
        """These of the tasks that were admitted are published."""
        caps = self._door(place).caps
        if caps:
            self._of_task.update(dict.fromkeys(task_ids, caps))

    def ended(self, task_ids: Iterable[int]) -> None:
        """The attempts of these tasks are over."""
        if self._of_task:
            for task_id in task_ids:
                _use(self._of_task.pop(task_id, ()), -1)

    def why(self, place: Place) -> Refusal | None:
        """Why a task of this place may not start now; None if it may. Nothing is counted."""
        door = self._door(place)
        full = (cap.reason for cap in door.caps if cap.used >= cap.limit)
        is_pressed = self.pressure is not None and self.pressure.refuses(place.priority)
        return door.closed or (Refusal.PRESSURE if is_pressed else next(full, None))

    def holds(self, place: Place) -> list[Hold]:
        """All that is against the start of a task of this place but rates, in the order of the checks.

        Nothing is counted.
        """
        closed = self._closed(place)
        if self.pressure is not None and self.pressure.refuses(place.priority):
            closed.append(Refusal.PRESSURE)
        full = [Hold(cap.reason, cap.used, cap.limit) for cap in self._caps_of(place) if cap.used >= cap.limit]
        return [*map(Hold, closed), *full]

    def _door(self, place: Place) -> Door:
        door = self._doors.get(place)
        if door is None:
            if len(self._doors) >= DOORS_MAX:
                self._doors.clear()
            closed, caps = next(iter(self._closed(place)), None), self._caps_of(place)
            has_rate = self._tokens is not None and self._tokens.limits(place.kind, place.group, place.queue)
            door = Door(closed, caps, has_rate, closed is None and not caps and not has_rate)
            self._doors[place] = door
        return door

    def _closed(self, place: Place) -> list[Refusal]:
        closed = [Refusal.QUEUE_NOT_SERVED] if self._served and place.queue not in self._served else []
        closed += [PAUSED[scope] for scope, name in _names(place) if (scope, name) in self._paused]
        return closed + ([Refusal.QUEUE_COOLING] if place.queue in self._cooling else [])

    def _caps_of(self, place: Place) -> tuple[Bound, ...]:
        budgets = [self._budgets[place.kind]] if place.kind in self._budgets else []
        return (*budgets, *(self._caps[key] for key in _names(place) if key in self._caps))

    def _refuse(self, reason: Refusal, place: Place) -> int:
        self.refusals[reason] += 1
        if reason is Refusal.QUEUE_NOT_SERVED and len(self.unserved) < UNSERVED_MAX:
            self.unserved.add(place.queue)
        return 0


def _names(place: Place) -> list[tuple[str, str]]:
    """All that may be said of the tasks of a place, from the widest."""
    named = [("server", ""), ("domain", place.domain), ("group", place.group), ("queue", place.queue)]
    names = [(scope, name) for scope, name in named if name is not None]
    return [*names, ("kind", place.kind)]


def _use(caps: Iterable[Bound], count: int) -> None:
    for cap in caps:
        cap.used += count
