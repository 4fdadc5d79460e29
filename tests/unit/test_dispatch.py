"""The dispatcher publishes in order, as deep as needed, past no limit. A recording ring stands for the real one."""

from collections.abc import Sequence

import pytest

from ringq.backlog import Backlog
from ringq.dispatch import Dispatcher
from ringq.entries import Admitted, Row
from ringq.gate import Gate
from ringq.places import Place


class RecordingRing:
    """Takes what fits, and lets the test play the workers."""

    def __init__(self, slots: int = 4096) -> None:
        self.slots = slots
        self.published: list[tuple[int, int]] = []  # (task id, lease)
        self.calls = 0
        self.claimed = 0
        self.freed = 0

    def publish(self, tasks: Sequence[Row], first_lease: int) -> int:
        self.calls += 1
        count = min(len(tasks), self.slots - self.in_flight())
        self.published += [(task[0], first_lease + i) for i, task in enumerate(tasks[:count])]
        return count

    def ready(self) -> int:
        return len(self.published) - self.claimed

    def in_flight(self) -> int:
        return len(self.published) - self.freed

    @property
    def order(self) -> list[int]:
        return [task_id for task_id, _ in self.published]


def make(ring: RecordingRing, queues: Sequence[tuple[str, int | None]] = ()) -> Dispatcher:
    backlog = Backlog(lambda runs: ([row(i) for a, b in runs for i in range(a, b + 1)], runs[-1][1]), 1000, 1 << 20)
    return Dispatcher(ring, backlog, Gate(queues), epoch=7, lookahead_ms=8.0)


def row(task_id: int, kind: int = 1) -> Row:
    return (task_id, kind, 1, 0, "{}")


def admitted(priority: int, queue: str, rows: Sequence[Row]) -> Admitted:
    ids, kinds, _, limits, payloads = zip(*rows, strict=True)
    return Admitted(Place(priority, queue), ids, kinds, limits, payloads)


def fast(dispatcher: Dispatcher, kind: int = 1) -> None:
    dispatcher.pace.learn(kind, 1000, 1000)


def test_more_urgent_tasks_go_first_then_older_ones_across_queues() -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    fast(dispatcher)
    dispatcher.backlog.append(admitted(128, "a", [row(1), row(4)]))
    dispatcher.backlog.append(admitted(128, "b", [row(2), row(3)]))
    dispatcher.backlog.append(admitted(0, "b", [row(5)]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [5, 1, 2, 3, 4]


@pytest.mark.parametrize("gap", [1, 50])
def test_tasks_that_alternate_between_queues_are_published_together(gap: int) -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    fast(dispatcher)
    ids = range(gap, 1 + 200 * gap, gap)
    for nth, queue in enumerate("abcd"):
        dispatcher.backlog.append(admitted(128, queue, [row(i) for i in ids[nth::4]]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == list(ids)
    assert ring.calls == 1


def test_a_capped_queue_gives_what_it_may_among_the_tasks_of_others() -> None:
    ring = RecordingRing()
    dispatcher = make(ring, [("capped", 2), ("open", None)])
    fast(dispatcher)
    dispatcher.backlog.append(admitted(128, "capped", [row(i) for i in (1, 3, 5, 7)]))
    dispatcher.backlog.append(admitted(128, "open", [row(i) for i in (2, 4, 6, 8)]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [1, 2, 3, 4, 6, 8]
    assert ring.calls == 1
    dispatcher.ended([1, 3])
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order[6:] == [5, 7]


def test_a_task_without_a_handler_takes_no_place_of_a_capped_queue() -> None:
    ring = RecordingRing()
    dispatcher = make(ring, [("capped", 1), ("open", None)])
    fast(dispatcher)
    assert dispatcher.learn(frozenset([9])) == []
    dispatcher.backlog.append(admitted(128, "capped", [row(2, kind=9), row(4)]))
    dispatcher.backlog.append(admitted(128, "open", [row(i) for i in (1, 3, 5)]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [1, 3, 4, 5]
    assert list(dispatcher.stranded) == [2]


def test_leases_grow_within_the_epoch_and_are_never_repeated() -> None:
    ring = RecordingRing(slots=3)
    dispatcher = make(ring)
    fast(dispatcher)
    dispatcher.backlog.append(admitted(128, "a", [row(i) for i in range(1, 8)]))
    for _ in range(3):
        dispatcher.fill(workers=2, uncommitted=0)
        ring.claimed = ring.freed = len(ring.published)
    assert ring.order == [1, 2, 3, 4, 5, 6, 7]
    assert [lease for _, lease in ring.published] == [(7 << 32) + i for i in range(7)]


def test_a_full_ring_loses_no_task() -> None:
    ring = RecordingRing(slots=2)
    dispatcher = make(ring)
    fast(dispatcher)
    dispatcher.backlog.append(admitted(128, "a", [row(i) for i in range(1, 6)]))
    assert dispatcher.fill(workers=2, uncommitted=0) == 2
    assert len(dispatcher.backlog) == 3
    ring.claimed = ring.freed = 2
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [1, 2, 3, 4]


def test_long_tasks_keep_the_ring_shallow_and_short_ones_fill_it() -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    dispatcher.pace.learn(1, 1, 10_000_000)  # ten seconds each
    dispatcher.backlog.append(admitted(128, "a", [row(i) for i in range(1, 101)]))
    assert dispatcher.fill(workers=2, uncommitted=0) == 2  # both workers are idle
    ring.claimed = 2
    assert dispatcher.fill(workers=2, uncommitted=0) == 0  # what is more urgent by then shall go first
    fast(dispatcher, kind=2)
    dispatcher.backlog.append(admitted(0, "a", [row(i, kind=2) for i in range(200, 300)]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order[2:] == list(range(200, 300))


def test_one_short_task_does_not_let_long_ones_follow_in_its_chunk() -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    fast(dispatcher, kind=1)
    dispatcher.pace.learn(2, 1, 10_000_000)
    dispatcher.backlog.append(admitted(128, "a", [row(1), *[row(i, kind=2) for i in range(2, 258)]]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [1, 2]
    assert len(dispatcher.backlog) == 255


def test_a_task_that_must_run_alone_stays_alone_when_its_worker_died_before_it_began() -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    fast(dispatcher)
    dispatcher.run_alone(1)
    for lap in range(2):  # the second time it came back unstarted
        dispatcher.backlog.lane(Place(128, "a")).give_back([1])
        if lap == 0:
            dispatcher.backlog.append(admitted(128, "a", [row(2)]))
        assert dispatcher.fill(workers=2, uncommitted=0) == 1
        ring.claimed = ring.freed = len(ring.published)
        dispatcher.ended([1])
    dispatcher.forget([1])
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [1, 1, 2]


def test_an_urgent_task_waits_behind_no_more_than_the_next_few_milliseconds_of_work() -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    dispatcher.pace.learn(1, 100, 100 * 2000)  # 2 ms each
    dispatcher.backlog.append(admitted(128, "a", [row(i) for i in range(1, 101)]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert len(ring.order) == 8  # two workers, 8 ms
    dispatcher.backlog.append(admitted(0, "a", [row(500)]))
    ring.claimed = 1
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order[8] == 500


def test_an_urgent_long_task_that_waits_for_a_worker_is_not_overtaken_by_short_ones() -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    fast(dispatcher, kind=1)
    dispatcher.pace.learn(2, 1, 10_000_000)
    dispatcher.backlog.append(admitted(128, "a", [row(i, kind=2) for i in (1, 2)]))
    dispatcher.fill(workers=2, uncommitted=0)
    ring.claimed = 2
    dispatcher.backlog.append(admitted(128, "a", [row(i) for i in range(10, 20)]))
    dispatcher.backlog.append(admitted(0, "a", [row(30, kind=2)]))
    assert dispatcher.fill(workers=2, uncommitted=0) == 0
    ring.freed = 1
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order[2] == 30


def test_tasks_that_ended_elsewhere_leave_an_empty_lane_that_holds_up_nobody() -> None:
    ring = RecordingRing()
    backlog = Backlog(lambda runs: ([], runs[-1][1]), 1000, 1 << 20)  # nothing of it is active any more
    dispatcher = Dispatcher(ring, backlog, Gate(()), epoch=7, lookahead_ms=8.0)
    backlog.lane(Place(0, "a")).append_ids([1, 2])
    backlog.append(admitted(128, "a", [row(3)]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [3]


def test_a_refused_queue_holds_up_no_other() -> None:
    ring = RecordingRing()
    dispatcher = make(ring, [("capped", 1), ("open", None)])
    fast(dispatcher)
    dispatcher.backlog.append(admitted(0, "elsewhere", [row(1)]))
    dispatcher.backlog.append(admitted(0, "capped", [row(2), row(3)]))
    dispatcher.backlog.append(admitted(128, "open", [row(4), row(5)]))
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [2, 4, 5]
    dispatcher.ended([2])
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [2, 4, 5, 3]


def test_a_task_that_must_run_alone_waits_for_the_pool_and_has_it() -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    fast(dispatcher)
    dispatcher.backlog.append(admitted(128, "a", [row(1)]))
    dispatcher.fill(workers=2, uncommitted=0)
    dispatcher.run_alone(2)
    dispatcher.backlog.append(admitted(128, "a", [row(2), row(3)]))
    assert dispatcher.fill(workers=2, uncommitted=0) == 0  # task 1 still runs
    ring.claimed = ring.freed = 1
    assert dispatcher.fill(workers=2, uncommitted=0) == 1
    assert dispatcher.fill(workers=2, uncommitted=0) == 0  # task 3 waits for task 2
    ring.claimed = ring.freed = 2
    dispatcher.ended([2])
    dispatcher.fill(workers=2, uncommitted=0)
    assert ring.order == [1, 2, 3]


@pytest.mark.parametrize("workers", [0])
def test_nothing_is_published_while_no_worker_is_ready(workers: int) -> None:
    ring = RecordingRing()
    dispatcher = make(ring)
    dispatcher.backlog.append(admitted(128, "a", [row(1)]))
    assert dispatcher.fill(workers=workers, uncommitted=0) == 0


def test_the_ring_is_as_deep_as_twice_the_longest_turn_of_late() -> None:
    ring = RecordingRing(1 << 20)
    dispatcher = make(ring)
    fast(dispatcher)  # 5 us each: 200 in a millisecond
    dispatcher.backlog.append(admitted(0, "a", [row(i) for i in range(1, 900)]))
    dispatcher.backlog.lane(Place(0, "a")).append_ids(range(900, 200_000))
    dispatcher.note_turn(1_000_000)
    assert dispatcher.lookahead_ms == 8
    dispatcher.note_turn(20_000_000)
    assert dispatcher.lookahead_ms == 40
    dispatcher.fill(workers=2, uncommitted=0)
    assert len(ring.published) == 2 * 40 * 200
    dispatcher.note_turn(10_000_000_000)
    assert dispatcher.lookahead_ms == 100
    for _ in range(300):
        dispatcher.note_turn(1_000_000)
    assert dispatcher.lookahead_ms == 8
