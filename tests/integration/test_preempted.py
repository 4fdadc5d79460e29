"""Preempted tasks: where they are while they wait, what else may become of them, and how they go on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plant import Plant

from ringq.clock import ManualClock
from ringq.entries import Batch, Spec
from ringq.errors import StorageFull
from ringq.model import OnDuplicate, PauseReason, Reason, Status
from ringq.preempted import Preempted
from ringq.protocol import SetPause
from ringq.query import Query

HIGH, NORMAL, IDLE = 64, 128, 255


class Works(Plant):
    """A plant in which tasks are preempted."""

    def __init__(self, folder: Path) -> None:
        self.numbers = itertools.count(1)
        super().__init__(folder, clock=ManualClock())

    def start(self, segment: Any) -> None:
        super().start(segment)
        self.preempted = Preempted(self.store, self.writer, HIGH)

    def give(
        self, priority: int = NORMAL, key: str | None = None, mode: OnDuplicate = OnDuplicate.SKIP, **more: Any
    ) -> int:
        task_id: int = self.store.next_task_id
        spec = Spec("shop::work", "default", priority, None, None, **more)
        number = next(self.numbers).to_bytes(16, "big")
        refuse = self.answers.append
        keys, modes = ([key], [mode.code]) if key else (None, None)
        self.submit(Batch(number, [spec], [0], ["{}"], None, lambda *_: None, refuse, keys=keys, on_duplicate=modes))
        self.turn()
        return task_id

    def turn(self) -> None:
        self.look_at_the_time()
        self.commit()

    def begin(self, task_id: int) -> None:
        self.fill(1 + self.ring.in_flight())
        self.claim(task_id)

    def preempt(self, task_id: int, *, by_force: bool = False) -> None:
        self.writer.stops.ask([task_id], Reason.PREEMPTED)
        if by_force:
            self.interrupt(task_id, Reason.PREEMPTED)
        else:
            self.receive(task_id, Status.FAILED, Reason.PREEMPTED, "{}")

    def held(self, priority: int = NORMAL, **more: Any) -> int:
        """A task that was preempted."""
        task_id = self.give(priority, **more)
        self.begin(task_id)
        self.preempt(task_id)
        self.turn()
        assert task_id in self.preempted
        return task_id

    def go_on(self, most_urgent: int | None = None) -> list[int]:
        task_ids = self.preempted.may_resume(most_urgent)
        self.preempted.resume(task_ids)
        self.turn()
        return task_ids

    def published(self) -> list[int]:
        return [slot.task_id for slot in self.fill(9 + self.ring.in_flight())]

    def shown(self, task_id: int) -> tuple[Status, PauseReason]:
        record = Query(self.config.database).task(task_id)
        return record.status, record.pause_reasons


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    works = Works(tmp_path)
    yield works
    works.store.close()


@pytest.mark.parametrize("by_force", [False, True])
def test_it_is_paused_in_no_lane_and_goes_on_at_its_old_place(works: Works, by_force: bool) -> None:
    first = works.give()
    works.begin(first)
    works.preempt(first, by_force=by_force)
    works.turn()
    assert works.shown(first) == (Status.PAUSED, PauseReason.PREEMPTION)
    assert first not in works.writer.stops
    assert works.writer.interruptions[first].attempts == 0
    later = works.give()
    assert works.go_on() == [first]
    assert works.shown(first) == (Status.PENDING, PauseReason(0))
    assert works.published() == [first, later]
    assert works.ring.by_task[first].attempt == 1


def test_nothing_publishes_it_before(works: Works) -> None:
    held, other = works.held(), works.give()
    assert works.published() == [other]
    assert held not in works.ring.by_task


def test_it_waits_while_something_urgent_is_more_urgent(works: Works) -> None:
    normal, idle, high = works.held(NORMAL), works.held(IDLE), works.held(HIGH)
    assert works.preempted.may_resume(0) == []
    assert works.preempted.may_resume(HIGH) == [high]  # which is not more urgent than it
    assert works.preempted.may_resume(HIGH + 1) == [normal, idle, high]  # that is not urgent
    assert works.preempted.may_resume(None) == [normal, idle, high]
    assert Preempted(works.store, works.writer, None).may_resume(0) == [normal, idle, high]


def test_it_is_not_asked_for_twice(works: Works) -> None:
    held = works.held()
    works.preempted.resume(works.preempted.may_resume(None))
    assert works.preempted.may_resume(None) == []
    works.turn()
    assert (len(works.preempted), works.published()) == (0, [held])
    works.preempted.resume([held])  # as whoever asked too late
    works.turn()
    assert works.published() == []


def test_a_restart_knows_it_and_a_kill_too(works: Works) -> None:
    held, other = works.held(), works.give()
    works.kill()
    assert (held in works.preempted, works.published()) == (True, [other])
    works.stop()
    assert (held in works.preempted, works.published()) == (True, [other])
    assert works.shown(held) == (Status.PAUSED, PauseReason.PREEMPTION)
    works.go_on()
    assert works.published() == [held]


def test_a_cancel_ends_it(works: Works) -> None:
    held, other = works.held(), works.give()
    works.cancel(held)
    works.turn()
    assert works.shown(held) == (Status.CANCELLED, PauseReason(0))
    assert (len(works.preempted), works.published()) == (0, [other])


def test_a_cancel_and_its_going_on_in_one_transaction(works: Works) -> None:
    one, two = works.held(), works.held()
    works.cancel(one)
    works.preempted.resume([one, two])
    works.cancel(two)
    works.turn()
    assert [works.shown(task_id)[0] for task_id in (one, two)] == [Status.CANCELLED] * 2
    assert (works.published(), len(works.preempted)) == ([], 0)


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_cancel_by_status_ends_what_is_listed_with_it(works: Works, is_paused: bool) -> None:
    held, other = works.held(), works.give()
    works.cancel(is_paused=is_paused, is_running=False)
    works.turn()
    ended = [task_id for task_id in (held, other) if works.shown(task_id)[0] is Status.CANCELLED]
    assert ended == [held if is_paused else other]


def test_its_time_to_live_keeps_running(works: Works) -> None:
    held = works.held(ttl_ms=60_000)
    works.clock.advance(61)
    works.turn()
    assert works.shown(held) == (Status.EXPIRED, PauseReason(0))
    assert (len(works.preempted), works.published()) == (0, [])


def test_who_has_no_time_left_does_not_wait_first(works: Works) -> None:
    task_id = works.give(ttl_ms=60_000, ttl_from=0)
    works.begin(task_id)
    works.clock.advance(61)
    works.preempt(task_id)
    works.turn()
    assert (works.shown(task_id)[0], len(works.preempted)) == (Status.EXPIRED, 0)


def test_another_takes_its_place(works: Works) -> None:
    held = works.held(key="x")
    other = works.give(key="x", mode=OnDuplicate.SUPERSEDE)
    assert works.shown(held)[0] is Status.SUPERSEDED
    assert (len(works.preempted), works.published()) == (0, [other])


def test_a_more_urgent_duplicate_makes_it_go_on(works: Works) -> None:
    held = works.held(key="x")
    works.give(HIGH, key="x")
    assert (len(works.preempted), works.published()) == (0, [held])
    assert Query(works.config.database).task(held).priority == HIGH


def test_what_could_not_be_written_has_not_happened(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageFull("no room")

    held, task_id = works.held(key="x"), works.give()
    works.begin(task_id)
    works.preempt(task_id)
    with monkeypatch.context() as patch:
        patch.setattr(works.store, "delete_delayed", full)
        works.preempted.resume([held])
        works.give(HIGH, key="x")
    assert works.published() == []
    assert works.store.preempted == {held}
    assert task_id in works.writer.stops
    works.clock.advance(2)
    works.turn()
    assert works.store.preempted == {held, task_id}
    assert works.go_on() == [held, task_id]


def test_it_is_counted_and_listed_as_paused(works: Works) -> None:
    held, other = works.held(), works.give()
    query = Query(works.config.database)
    assert [record.id for record in query.tasks(status=Status.PAUSED)] == [held]
    assert [record.id for record in query.tasks(status=Status.PENDING)] == [other]
    assert (query.counts()[Status.PAUSED], query.counts()[Status.PENDING]) == (1, 1)
    assert works.read("SELECT status FROM task_v ORDER BY id") == [("paused",), ("pending",)]
    works.ask(SetPause("queue", "default", True))
    works.turn()
    assert works.shown(held) == (Status.PAUSED, PauseReason.PREEMPTION | PauseReason.QUEUE)
    assert works.shown(other) == (Status.PAUSED, PauseReason.QUEUE)
    assert query.counts()[Status.PAUSED] == 2
    works.go_on()
    assert works.shown(held) == (Status.PAUSED, PauseReason.QUEUE)


def test_no_mark_passes_it_by(works: Works) -> None:
    held = works.held()
    for _ in range(3):
        works.cancel(works.give())
        works.turn()
    with works.store.transaction():
        assert works.store.set_low_water(4) == held - 1
        assert works.store.set_low_water(4, [held]) == 4
    works.kill()
    assert works.published() == []
    works.go_on()
    assert works.published() == [held]


def test_attempts_that_were_stopped_count_nowhere(works: Works) -> None:
    task_id = works.give()
    for _ in range(5):
        works.begin(task_id)
        works.preempt(task_id, by_force=True)
        works.turn()
        works.go_on()
    assert works.store.attempts_summary() == {task_id: (0, 0, 0, 0)}
    assert Query(works.config.database).task(task_id).attempt_count == 0
    works.kill()
    assert works.store.attempts_summary() == {task_id: (0, 0, 0, 0)}
