"""Several ends at once: of children and their parents, of what others depend on - and the server killed in between."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from plant import Plant

from ringq import protocol, writer
from ringq.admission import Admission
from ringq.clock import ManualClock
from ringq.codec import FINALIZE_PREFIX
from ringq.errors import CyclicDependency
from ringq.model import OnDependencyFailure, OnDuplicate, Reason, Status

FAIL = OnDependencyFailure.FAIL
CANCELLED, COMPLETED, FAILED = Status.CANCELLED, Status.COMPLETED, Status.FAILED


class Home(Plant):
    """A plant whose tasks spawn."""

    def __init__(self, folder: Path) -> None:
        self.numbers = itertools.count(1)
        self.admission = Admission()
        self.admission.learn([{"name": "home::task"}])
        super().__init__(folder, clock=ManualClock())

    def message(self, *depends_on: list[int], policy: OnDependencyFailure | None = None, **fields: Any) -> Any:
        """Tasks, one for each list of what it depends on."""
        number = next(self.numbers).to_bytes(16, "big")
        policies = None if policy is None else [policy.code] * len(depends_on)
        spec = protocol.SpecFields("home::task", **fields)
        upstream: Any = list(depends_on) if any(depends_on) else None
        return protocol.Submit(
            number, [spec], None, ["{}"] * len(depends_on), None, depends_on=upstream,
            on_dependency_failure=policies if upstream else None,
        )  # fmt: skip

    def send(self, message: protocol.Submit) -> int:
        """The id of the first of these tasks."""
        first: int = self.store.next_task_id
        assert self.admission is not None
        self.submit(self.admission.check(message, lambda *_: None, self.answers.append))
        self.turn()
        return first

    def give(self, *depends_on: int, **fields: Any) -> int:
        return self.send(self.message(list(depends_on), **fields))

    def begin(self, *task_ids: int) -> None:
        self.fill(99)
        for task_id in task_ids:
            self.claim(task_id)

    def end(self, task_id: int, status: Status = COMPLETED) -> None:
        """An attempt has ended; nothing of it is written yet."""
        self.receive(task_id, status, Reason.NONE if status is COMPLETED else Reason.HANDLER_ERROR, "{}")

    def spawn(self, task_id: int, batch: Any, roles: Sequence[int] = (), **options: Any) -> None:
        """A handler returns, and leaves children."""
        own = list(roles) or [protocol.CHILD] * len(batch.payloads)
        body = protocol.encode_carried(protocol.Carried("1", batch, own, True, **options)).decode()
        self.receive(task_id, COMPLETED, Reason.WAITING, body)

    def parent(
        self, *depends_on: list[int], retry: str | None = None, serial_key: str | None = None, **options: Any
    ) -> int:
        """A task that waits for its children: those have the next ids. `options`: of the children, and how it waits."""
        task_id = self.give(retry=retry, serial_key=serial_key)
        self.begin(task_id)
        waits = {name: options.pop(name) for name in ("finalizes", "fail_fast") if name in options}
        upstream = [[one if one < 0 else task_id + one for one in own] for own in depends_on]
        self.spawn(task_id, self.message(*upstream, **options), **waits)
        self.turn()
        return task_id

    def turn(self) -> None:
        self.look_at_the_time()
        self.commit()

    def end_of(self, task_id: int) -> tuple[Status, Reason, dict[str, Any]] | None:
        rows = self.read(f"SELECT status, reason, error FROM receipt WHERE task_id = {task_id}")
        return next(((Status.of(s), Reason.of(r), json.loads(e or "{}")) for s, r, e in rows), None)

    def status(self, task_id: int) -> Status | None:
        found = self.end_of(task_id)
        return None if found is None else found[0]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.store.close()


def test_a_child_that_has_just_failed_and_may_again_does_not_run_again_when_its_parent_ends(home: Home) -> None:
    parent = home.parent([], [])
    again, last = parent + 1, parent + 2
    home.begin(again, last)
    home.receive(again, FAILED, Reason.SNOOZED, '{"after":60}')
    home.end(last, FAILED)
    home.turn()
    assert [home.status(one) for one in (parent, again, last)] == [FAILED, CANCELLED, FAILED]
    home.clock.advance(100)
    home.turn()
    assert home.fill(9) == []
    assert home.read("SELECT * FROM delayed UNION ALL SELECT task_id, 0 FROM cancel_request") == []


def test_a_child_that_shall_run_alone_keeps_nobody_waiting_when_it_has_ended_with_its_parent(home: Home) -> None:
    parent = home.parent([], [])
    lost, last = parent + 1, parent + 2
    for _ in range(2):
        home.begin(lost)
        home.interrupt(lost, Reason.LOST)
        home.turn()
    home.begin(lost, last)
    home.interrupt(lost, Reason.LOST)
    home.end(last, FAILED)
    home.turn()
    assert home.status(lost) is CANCELLED
    assert home.dispatcher._alone == set()


def test_children_that_end_with_their_parent_are_not_given_out_while_that_is_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = home.parent(*[[]] * 50)
    home.fill(1)
    (first,) = home.ring.by_task
    home.claim(first)
    home.end(first, FAILED)
    monkeypatch.setattr(writer, "STEP_NS", 0)
    ring: Any = home.ring
    home.settlement.commit(ring)
    published = []
    while home.writer.is_under_way:
        published += home.fill(9)
        for slot in home.ring.by_task.values():
            slot.is_claimed = True
        home.settlement.commit(ring)
    assert home.status(parent) is FAILED
    assert [home.status(slot.task_id) for slot in published] == [None] * len(published)


def test_a_task_that_was_cancelled_is_not_given_out_while_that_is_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [home.give() for _ in range(5)]
    for task_id in tasks:
        home.give(task_id)
    monkeypatch.setattr(writer, "STEP_NS", 0)
    home.cancel(*tasks)
    ring: Any = home.ring
    home.settlement.commit(ring)
    published = []
    while home.writer.is_under_way:
        published += [slot.task_id for slot in home.fill(9)]
        home.settlement.commit(ring)
    assert [home.status(one) for one in tasks] == [CANCELLED] * 5
    assert set(published).isdisjoint(tasks)


def test_a_failure_that_goes_no_further_and_a_cancel_at_once_are_a_cancel(home: Home) -> None:
    parent = home.parent([], [-1], policy=FAIL, fail_fast=False)
    first, second = parent + 1, parent + 2
    outside = home.give(second)
    home.begin(first)
    home.end(first, FAILED)
    home.cancel(parent)
    home.turn()
    assert [home.status(one) for one in (parent, first, second)] == [CANCELLED, FAILED, CANCELLED]
    assert home.status(outside) is Status.DEPENDENCY_FAILED


@pytest.mark.parametrize("depends_on", [[[0]], [[-2], [0]]], ids=["itself", "through another child"])
def test_a_child_that_depends_on_its_parent_is_refused(home: Home, depends_on: list[list[int]]) -> None:
    parent = home.parent(*depends_on)
    status, reason, error = home.end_of(parent) or (None, None, {})
    assert (status, reason) == (FAILED, Reason.INVALID_SPAWN)
    assert f"depends on task {parent}, which waits for it" in error["message"]
    assert home.store.next_task_id == parent + 1


def test_a_child_that_depends_on_what_waits_for_its_parent_is_refused(home: Home) -> None:
    parent = home.give()
    below = home.give(home.give(parent))
    home.begin(parent)
    home.spawn(parent, home.message([], [below]))
    home.turn()
    status, reason, error = home.end_of(parent) or (None, None, {})
    assert (status, reason) == (FAILED, Reason.INVALID_SPAWN)
    assert f"depends on task {below}, which waits for it" in error["message"]


def test_a_child_that_is_stored_at_once_and_depends_on_its_parent_is_refused(home: Home) -> None:
    parent = home.give()
    home.begin(parent)
    message = home.message([parent])
    message.parent = (parent, home.ring.by_task[parent].lease)
    home.send(message)
    assert [type(answer) for answer in home.answers] == [CyclicDependency]


def test_a_child_that_depends_on_a_follow_up_that_waits_for_its_parent_is_refused(home: Home) -> None:
    parent = home.give()
    home.begin(parent)
    home.spawn(parent, home.message([parent], [-1]), [protocol.FOLLOW_UP, protocol.CHILD])
    home.turn()
    end = home.end_of(parent)
    assert end is not None
    assert end[1] is Reason.INVALID_SPAWN


@pytest.mark.parametrize("generations", [1, 2])
def test_a_child_with_the_serial_key_of_one_above_it_is_refused(home: Home, generations: int) -> None:
    task_id = home.give(serial_key="x")
    for _ in range(generations - 1):
        home.begin(task_id)
        home.spawn(task_id, home.message([]))
        home.turn()
        task_id += 1
    home.begin(task_id)
    home.spawn(task_id, home.message([], serial_key="x"))
    home.turn()
    status, reason, error = home.end_of(task_id) or (None, None, {})
    assert (status, reason) == (FAILED, Reason.INVALID_SPAWN)
    assert "has the serial key of task 1, which waits for it" in error["message"]


def with_key(home: Home, *depends_on: list[int], key: str = "x") -> Any:
    message = home.message(*depends_on)
    message.keys = [key] * len(depends_on)
    return message


def test_a_child_that_would_wait_for_the_key_of_its_parent_is_refused(home: Home) -> None:
    parent = home.send(with_key(home, []))
    home.begin(parent)
    home.spawn(parent, with_key(home, []))
    home.turn()
    status, reason, error = home.end_of(parent) or (None, None, {})
    assert (status, reason) == (FAILED, Reason.INVALID_SPAWN)
    assert f"has the key of task {parent}, which waits for it" in error["message"]


def test_a_child_that_depends_on_who_waits_for_the_key_of_its_parent_is_refused(home: Home) -> None:
    parent = home.send(with_key(home, []))
    home.begin(parent)
    behind = home.send(with_key(home, []))
    home.spawn(parent, home.message([behind]))
    home.turn()
    assert (home.status(parent), home.status(behind)) == (FAILED, None)
    home.begin(behind)


def test_children_with_keys_and_serial_keys_of_their_own_are_taken(home: Home) -> None:
    other = home.send(with_key(home, [], key="y"))
    parent = home.send(with_key(home, []))
    home.begin(other, parent)
    home.spawn(parent, with_key(home, [other], key="y"))
    home.turn()
    home.end(other)
    home.turn()
    home.begin(parent + 1)
    home.end(parent + 1)
    home.turn()
    assert home.status(parent) is COMPLETED


def test_a_sibling_or_a_follow_up_may_depend_on_who_asked_for_it(home: Home) -> None:
    child = home.parent([]) + 1
    home.begin(child)
    home.spawn(child, home.message([child], [child]), [protocol.SIBLING, protocol.FOLLOW_UP])
    home.turn()
    home.begin(child + 1, child + 2)
    home.end(child + 1)
    home.end(child + 2)
    home.turn()
    assert [home.status(one) for one in range(child - 1, child + 3)] == [COMPLETED] * 4


def test_a_task_that_takes_the_place_of_another_and_waits_for_it_by_way_of_its_batch_is_refused(home: Home) -> None:
    first = home.message([])
    first.keys = ["x"]
    below = home.give(home.send(first))
    both = home.message([-2], [below])
    both.keys, both.on_duplicate = ["x", None], [OnDuplicate.SUPERSEDE.code] * 2
    home.send(both)
    assert [type(answer) for answer in home.answers] == [CyclicDependency]
    assert str(home.answers[0]).endswith(f": home::task (1) -> home::task (2) -> task {below} -> home::task (1)")


def test_two_tasks_that_take_the_places_of_others_and_wait_for_those_crosswise_are_refused(home: Home) -> None:
    first = home.message([], [])
    first.keys = ["x", "y"]
    holder = home.send(first)
    below = home.give(holder), home.give(holder + 1)
    both = home.message([below[1]], [below[0]])
    both.keys, both.on_duplicate = ["x", "y"], [OnDuplicate.SUPERSEDE.code] * 2
    home.send(both)
    assert [type(answer) for answer in home.answers] == [CyclicDependency]
    home.answers.clear()
    both.submission, both.depends_on = bytes(16), [[below[1]], None]
    home.send(both)
    assert home.answers == []


def test_a_task_that_takes_the_place_of_who_waits_for_a_key_and_waits_for_it_is_refused(home: Home) -> None:
    for _ in range(2):
        one = home.message([])
        one.keys = ["x"]
        last = home.send(one)
        home.fill(1)
    below = home.give(last)
    another = home.message([below])
    another.keys, another.on_duplicate = ["x"], [OnDuplicate.SUPERSEDE.code]
    home.send(another)
    assert [type(answer) for answer in home.answers] == [CyclicDependency]


@pytest.mark.parametrize("with_host", [False, True])
def test_children_end_with_a_task_that_was_cancelled_when_its_server_has_died(home: Home, with_host: bool) -> None:
    parent = home.give()
    home.begin(parent)
    message = home.message([])
    message.parent = (parent, home.ring.by_task[parent].lease)
    child = home.send(message)
    home.cancel(parent)
    home.turn()
    home.kill(with_host=with_host)
    assert [home.status(one) for one in (parent, child)] == [CANCELLED] * 2
    assert home.read("SELECT * FROM cancel_request") == []


def test_finalizes_that_failed_wait_for_their_time_after_a_restart_too(home: Home) -> None:
    parents = [home.parent(*[[]] * 20, retry="1 constant 60s", finalizes=True) for _ in range(2)]
    for parent in parents:
        home.begin(*range(parent + 1, parent + 21))
        for child in range(parent + 1, parent + 21):
            home.end(child)
        home.turn()
        home.begin(parent)
        home.end(parent, FAILED)
        home.turn()
    home.kill()
    assert home.fill(9) == []
    home.clock.advance(60)
    home.turn()
    home.begin(*parents)
    for parent in parents:
        assert home.ring.by_task[parent].payload.startswith(FINALIZE_PREFIX.decode())
        home.end(parent)
    home.turn()
    assert [home.status(parent) for parent in parents] == [COMPLETED] * 2


@pytest.mark.parametrize("with_host", [False, True])
def test_a_parent_with_a_serial_key_is_finalized_before_others_get_the_turn_after_a_restart_too(
    home: Home, with_host: bool
) -> None:
    parent = home.parent([], serial_key="x", finalizes=True)
    other = home.give(serial_key="x")
    home.begin(parent + 1)
    home.end(parent + 1)
    home.turn()
    home.kill(with_host=with_host)
    assert [slot.task_id for slot in home.fill(9)] == [parent]
    home.claim(parent)
    home.end(parent)
    home.turn()
    assert [slot.task_id for slot in home.fill(9)] == [other]


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_task_that_must_not_run_and_comes_back_while_something_is_written_ends_next(
    home: Home, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    other = home.give()
    home.give(other)
    back = home.give(ttl_ms=1000)
    home.begin(other, back)
    if is_cancelled:
        home.cancel(back)
        home.turn()
    else:
        home.clock.advance(2)
    home.end(other)
    monkeypatch.setattr(writer, "STEP_NS", 0)
    ring: Any = home.ring
    while home.status(other) is None:  # in the transaction under way
        home.settlement.commit(ring)
    assert home.writer.is_under_way
    home.drop(back)
    home.turn()
    home.turn()
    assert home.status(back) is (CANCELLED if is_cancelled else Status.EXPIRED)
    assert home.writer.wait_ns(saturated=False) is None
