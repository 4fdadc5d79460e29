"""The dispatcher against a sorted list: of whatever is pending, it publishes the next in order that may start."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ringq import dispatch, merge
from ringq.backlog import Backlog
from ringq.controls import Share as Weight
from ringq.dispatch import Dispatcher
from ringq.entries import Admitted, Row
from ringq.gate import Gate
from ringq.pace import Room
from ringq.places import Place

QUEUES = ("a", "b", "c", "d")
CAPS = st.fixed_dictionaries({"a": st.integers(1, 4)}, optional=dict.fromkeys("bc", st.none() | st.integers(1, 9)))
DURATION_US = {1: 96, 2: 2996, 3: 1_000_000}  # by kind; the last is published to an idle worker only
LOOKAHEAD_MS = 8.0


class NarrowRing:
    """Takes what there is a slot for, or less when told that the blocks are short; its workers claim at once."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.blocks = slots
        self.running: set[int] = set()
        self.published: list[int] = []  # in this fill
        self.leases: list[int] = []
        self.was_short = False

    def publish(self, tasks: Sequence[Row], first_lease: int) -> int:
        count = min(len(tasks), self.slots - len(self.running), self.blocks)
        self.blocks -= count
        self.was_short |= count < len(tasks)
        self.published += [task[0] for task in tasks[:count]]
        self.leases += range(first_lease, first_lease + count)
        self.running.update(task[0] for task in tasks[:count])
        return count

    def ready(self) -> int:
        return 0

    def in_flight(self) -> int:
        return len(self.running)


class DispatchMachine(RuleBasedStateMachine):
    """The model: the pending tasks by id. What is published is compared with one walk over them, sorted."""

    @initialize(
        caps=st.just({}) | CAPS,
        slots=st.integers(1, 60),
        chunk=st.integers(1, 24),
        window=st.integers(0, 40),
        strangers=st.sampled_from([frozenset(), frozenset([2])]),
        with_alone=st.sampled_from([False, False, True]),
        sorted_at_once=st.sampled_from([8192, 8192, 3]),
    )
    def begin(
        self,
        caps: dict[str, int | None],
        slots: int,
        chunk: int,
        window: int,
        strangers: frozenset[int],
        with_alone: bool,
        sorted_at_once: int,
    ) -> None:
        self.patch = pytest.MonkeyPatch()
        for module in (dispatch, merge):
            self.patch.setattr(module, "CHUNK_ROWS", chunk)
        self.patch.setattr("ringq.backlog.SORT_IDS", sorted_at_once)
        self.sorted_at_once = sorted_at_once
        self.caps = caps
        self.ring = NarrowRing(slots)
        backlog = Backlog(self.load, window, 1 << 20, self.places_of)
        self.dispatcher = Dispatcher(self.ring, backlog, Gate(caps.items()), epoch=1, lookahead_ms=LOOKAHEAD_MS)
        for kind, duration_us in DURATION_US.items():
            self.dispatcher.pace.learn(kind, 1, duration_us)
        self.tasks: dict[int, tuple[int, str, int, str | None]] = {}  # priority, queue, kind, group
        self.limits: dict[tuple[str, str], int] = {}  # by scope and name
        self.next_id = 1
        self.weights: dict[str, Weight] = {}
        self.pending: set[int] = set()
        self.withdrawn: set[int] = set()
        self.strangers = strangers
        self.dispatcher.learn(strangers)
        self.with_alone = with_alone
        self.alone: set[int] = set()
        self.running_alone: int | None = None
        self.attempts: Counter[int] = Counter()
        self.returns: Counter[int] = Counter()

    def load(self, runs: Sequence[tuple[int, int]]) -> tuple[list[Row], int]:
        """At most five rows at a time, as if their payloads were large; tasks that have ended are not found."""
        ids = [task_id for first, last in runs for task_id in range(first, last + 1)]
        upto = ids[4] if len(ids) > 5 else runs[-1][1]
        return [self.row(task_id) for task_id in ids[:5] if task_id in self.tasks], upto

    def place(self, task_id: int) -> Place:
        priority, queue, kind, group = self.tasks[task_id]
        return Place(priority, queue, group, f"domain::{kind}")

    def places_of(self, runs: Sequence[tuple[int, int]]) -> dict[int, Place]:
        """Tasks that have ended are not found."""
        ids = [task_id for first, last in runs for task_id in range(first, last + 1)]
        return {task_id: self.place(task_id) for task_id in ids if task_id in self.tasks}

    def row(self, task_id: int) -> Row:
        return (task_id, self.tasks[task_id][2], 1, 0, "{}")

    @rule(
        priority=st.sampled_from([0, 0, 128]),
        shares=st.lists(st.tuples(st.sampled_from(QUEUES), st.integers(1, 6)), min_size=1, max_size=12),
        gap=st.sampled_from([1, 1, 1, 2, 50]),
        kinds=st.lists(st.sampled_from([1, 1, 1, 1, 2, 2, 3]), min_size=1, max_size=5),
        ended=st.sets(st.integers(0, 20), max_size=3),
        groups=st.lists(st.sampled_from([None, None, "g", "h"]), min_size=1, max_size=4),
    )
    def submit(
        self,
        priority: int,
        shares: list[tuple[str, int]],
        gap: int,
        kinds: list[int],
        ended: set[int],
        groups: Sequence[str | None] = (None,),
    ) -> None:
        """Blocks of ids for each queue; blocks of one task are the alternating case."""
        kind, group = itertools.cycle(kinds), itertools.cycle(groups)
        for nth, (queue, count) in enumerate(shares):
            ids = range(self.next_id, self.next_id + count * gap, gap)
            self.next_id = ids[-1] + gap
            if nth in ended:
                self.dispatcher.backlog.lane(Place(priority, queue)).append_ids(ids)
                continue
            by_place: dict[Place, list[int]] = {}
            for task_id in ids:
                self.tasks[task_id] = (priority, queue, next(kind), next(group))
                by_place.setdefault(self.dispatcher.places.narrow(self.place(task_id)), []).append(task_id)
            self.pending.update(ids)
            for place, own in by_place.items():
                of_ids = [self.tasks[task_id][2] for task_id in own]
                self.dispatcher.backlog.append(Admitted(place, own, of_ids, [0] * len(own), ["{}"] * len(own)))

    @rule(
        of=st.sampled_from(
            [("group", "g"), ("group", "h"), ("kind", "domain::1"), ("domain", "domain"), ("server", "")]
        ),
        limit=st.sampled_from([None, 0, 1, 2, 5]),
    )
    def say_a_limit(self, of: tuple[str, str], limit: int | None) -> None:
        """Of something of which nothing was said before, or something else."""
        self.dispatcher.backlog.tell_apart(*of)
        self.dispatcher.gate.limit(*of, limit)
        self.dispatcher.gate.recount((task_id, self.place(task_id)) for task_id in self.ring.running)
        self.limits.pop(of, None)
        if limit is not None:
            self.limits[of] = limit
        self.share()

    @rule(weights=st.dictionaries(st.sampled_from("gh"), st.sampled_from([1.0, 3.0]), max_size=2))
    def say_weights(self, weights: dict[str, float]) -> None:
        """From then on, and when none is left, each group has lanes of its own."""
        self.weights = {name: Weight(weight) for name, weight in weights.items()}
        if self.weights:
            self.dispatcher.backlog.tell_groups_apart()
        self.share()

    def share(self) -> None:
        caps = {name: limit for (scope, name), limit in self.limits.items() if scope == "group"}
        running = [(task_id, self.place(task_id)) for task_id in self.ring.running]
        self.dispatcher.sharing.follow(self.weights, caps, running)

    def names_of(self, task_id: int) -> list[tuple[str, str]]:
        _, queue, kind, group = self.tasks[task_id]
        names = [("server", ""), ("queue", queue), ("domain", "domain"), ("kind", f"domain::{kind}")]
        return [*names, ("group", group)] if group else names

    def all_limits(self) -> dict[tuple[str, str], int]:
        return {("queue", name): cap for name, cap in self.caps.items() if cap is not None} | self.limits

    def may_start(self, task_id: int) -> bool:
        _, queue, kind, _ = self.tasks[task_id]
        limits = self.all_limits()
        started = Counter(name for other in self.ring.running for name in self.names_of(other))
        is_served = kind not in self.strangers and (not self.caps or queue in self.caps)
        return is_served and all(started[name] < limits[name] for name in self.names_of(task_id) if name in limits)

    @rule(workers=st.sampled_from([0, 1, 2, 9]), blocks=st.sampled_from([60, 60, 60, 7, 1]))
    def fill(self, workers: int, blocks: int) -> None:
        expected = self.expected(workers)
        self.ring.blocks, self.ring.was_short, self.ring.published = blocks, False, []
        count = self.dispatcher.fill(workers, uncommitted=0)
        published = self.ring.published
        assert count == len(published)
        assert self.pending.issuperset(published)
        is_sorted = self.dispatcher.backlog.is_sorted
        if is_sorted and not self.dispatcher.sharing.is_on:
            assert published == expected[:count]
            assert count == len(expected) or self.ring.was_short
        self.pending.difference_update(published)
        self.attempts.update(published)
        if published and published[-1] in self.alone:
            self.running_alone = published[-1]
        if is_sorted and not (self.ring.was_short or self.running_alone or self.alone & self.pending):
            assert len(self.ring.running) >= workers or not any(map(self.may_start, self.pending)), "a worker idles"

    def expected(self, workers: int) -> list[int]:
        """The next in order, each if its queue may have one more, up to the first that there is no room for."""
        if workers == 0 or self.running_alone is not None:
            return []
        caps = self.all_limits()
        started = Counter(name for task_id in self.ring.running for name in self.names_of(task_id))
        allowed: list[int] = []
        for task_id in sorted(self.pending, key=lambda task_id: (self.tasks[task_id][0], task_id)):
            _, queue, kind, _ = self.tasks[task_id]
            names = self.names_of(task_id)
            if kind in self.strangers or (self.caps and queue not in self.caps):
                continue
            if any(started[name] >= caps[name] for name in names if name in caps):
                continue
            if task_id in self.alone and (self.ring.running or allowed):
                break
            started.update(names)
            allowed.append(task_id)
            if task_id in self.alone:
                break
        room = Room(workers - len(self.ring.running), workers * LOOKAHEAD_MS * 1000)
        costs = [self.dispatcher.pace.expected_us(self.tasks[task_id][2]) for task_id in allowed]
        return allowed[: room.take(costs)]

    @precondition(lambda self: self.ring.running)
    @rule(draw=st.data(), comes_back=st.booleans())
    def end(self, draw: st.DataObject, comes_back: bool) -> None:
        ended = draw.draw(st.lists(st.sampled_from(sorted(self.ring.running)), unique=True, min_size=1))
        self.ring.running.difference_update(ended)
        self.dispatcher.ended(ended)
        if self.running_alone in ended:
            self.running_alone = None
        if comes_back:
            self.returns.update(ended)
            self.pending.update(ended)
            self.give_back(ended)
        else:
            self.dispatcher.forget(ended)
            self.alone.difference_update(ended)

    @precondition(lambda self: self.pending and self.with_alone)
    @rule(draw=st.data())
    def run_alone(self, draw: st.DataObject) -> None:
        task_id = draw.draw(st.sampled_from(sorted(self.pending)))
        self.alone.add(task_id)
        self.dispatcher.run_alone(task_id)

    @precondition(lambda self: self.strangers)
    @rule(strangers=st.frozensets(st.sampled_from([1, 2, 3]), max_size=2))
    def learn(self, strangers: frozenset[int]) -> None:
        self.strangers = strangers
        self.give_back(self.dispatcher.learn(strangers))

    @precondition(lambda self: self.pending)
    @rule(draw=st.data())
    def withdraw(self, draw: st.DataObject) -> None:
        """As for a cancellation, or for a turn that another task takes; perhaps before its lane is sorted."""
        task_id = draw.draw(st.sampled_from(sorted(self.pending)))
        if self.dispatcher.withdraw(task_id, self.place(task_id)):
            self.pending.discard(task_id)
            self.withdrawn.add(task_id)

    @precondition(lambda self: self.withdrawn)
    @rule(draw=st.data())
    def give_back_withdrawn(self, draw: st.DataObject) -> None:
        task_id = draw.draw(st.sampled_from(sorted(self.withdrawn)))
        self.withdrawn.discard(task_id)
        self.pending.add(task_id)
        self.give_back([task_id])

    def give_back(self, ids: Sequence[int]) -> None:
        for task_id in ids:
            self.dispatcher.backlog.lane(self.place(task_id)).give_back([task_id])

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "ring"):
            return
        started = Counter(self.tasks[task_id][1] for task_id in self.ring.running)
        assert len(self.ring.running) <= self.ring.slots
        assert all(count <= self.caps[queue] for queue, count in started.items() if self.caps.get(queue) is not None)
        assert not (self.caps and started.keys() - self.caps.keys())
        assert len(self.dispatcher.backlog) + len(self.dispatcher.stranded) >= len(self.pending)
        assert self.ring.leases == [(1 << 32) + i for i in range(len(self.ring.leases))]

    def teardown(self) -> None:
        """In the end every task of a queue that is served has been published: once, and once more per return."""
        if not hasattr(self, "ring"):
            return
        try:
            self.learn(frozenset())
            for of in list(self.limits):
                self.say_a_limit(of, None)
            self.alone &= self.pending | self.ring.running
            idle = False
            while not idle:
                self.fill(9, self.ring.slots)
                idle = not self.ring.running and self.dispatcher.backlog.is_sorted
                self.dispatcher.ended(self.ring.running)
                self.dispatcher.forget(self.ring.running)
                self.alone -= self.ring.running
                self.ring.running.clear()
                self.running_alone = None
            served = {task_id for task_id, task in self.tasks.items() if not self.caps or task[1] in self.caps}
            assert self.pending.isdisjoint(served)
            served -= self.withdrawn
            assert all(self.attempts[task_id] == 1 + self.returns[task_id] for task_id in served)
            assert not any(self.attempts[task_id] > self.returns[task_id] for task_id in self.withdrawn)
        finally:
            self.patch.undo()


TestDispatch = DispatchMachine.TestCase
TestDispatch.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
