"""The writer on a real database: what is in one transaction, what happens only after it, and what failure leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringq import changes, protocol
from ringq.admission import Admission
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.entries import Batch, Interruption, Spec
from ringq.errors import RingqError, StorageFull
from ringq.lifecycle import Interruptions
from ringq.model import Reason, Status
from ringq.query import Query
from ringq.store import OwnerLock, Store
from ringq.writer import Writer

SPEC = Spec("media::thumbnail", "default", 128, None, None)


class Slots:
    """Notes when slots are freed, and whether what they held was durable then."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self.receipts_when_freed: list[int] = []

    def free(self) -> int:
        query = Query(self._database)
        counts = query.counts()
        self.receipts_when_freed.append(sum(counts.get(status, 0) for status in Status if status.is_terminal))
        return 0


class Bench:
    """A writer and everything around it."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.clock = ManualClock()
        self.lock = OwnerLock(database)
        self.store = Store.open(database, durability="normal")
        self.store.begin_epoch(1)
        self.slots = Slots(database)
        self.replies: list[tuple[int, bool]] = []
        self.errors: list[RingqError] = []
        self.writer = Writer(self.store, Config(database, batch_receipts_max=100), self.clock)
        self.writer.ring = self.slots

    def batch(self, count: int, number: int = 0, **columns: Any) -> Batch:
        return Batch(
            submission=number.to_bytes(16, "big"), specs=columns.get("specs", [SPEC]),
            spec_of=columns.get("spec_of"), payloads=['{"path":"a"}'] * count, run_at_us=columns.get("run_at_us"),
            reply=lambda first, replayed: self.replies.append((first, replayed)), refuse=self.errors.append,
        )  # fmt: skip

    def commit(self) -> Any:
        return self.answered(self.writer.commit(lambda: None))

    def answered(self, committed: Any) -> Any:
        for answer in committed.answers if committed else ():
            answer()
        return committed

    def receipt(self, task_id: int, lease: int = 1 << 32, status: Status = Status.COMPLETED) -> tuple[Any, ...]:
        result, error = ("1", None) if status is Status.COMPLETED else (None, "{}")
        now = self.clock.now_us()
        return (task_id, lease, 1, 1, status.code, 0, now, 50, 0, None, None, result, error)

    def crash(self, task_id: int, lease: int, reason: Reason = Reason.CRASH) -> None:
        now = self.clock.now_us()
        self.writer.interrupt(Interruption(task_id, lease, 1, 1, 0, reason, now - 10, now, '{"type":"WorkerDied"}'))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "t.db")
    yield bench
    bench.store.close()
    bench.lock.release()


def test_a_submission_is_answered_after_its_commit_with_consecutive_ids(bench: Bench) -> None:
    bench.writer.submit(bench.batch(3, number=1))
    bench.writer.submit(bench.batch(2, number=2))
    assert bench.replies == []
    committed = bench.commit()
    assert bench.replies == [(1, False), (4, False)]
    assert [list(tasks.ids) for tasks in committed.admitted] == [[1, 2, 3], [4, 5]]


def test_a_repeated_submission_is_answered_and_not_doubled(bench: Bench) -> None:
    for _ in range(3):
        bench.writer.submit(bench.batch(3, number=7))
        bench.commit()
    bench.writer.submit(bench.batch(3, number=7))
    bench.writer.submit(bench.batch(3, number=7))  # twice in one transaction
    bench.commit()
    assert bench.replies == [(1, False)] + [(1, True)] * 4
    query = Query(bench.database)
    assert query.counts()[Status.PENDING] == 3


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.writer.STEP_NS", 0)
    monkeypatch.setattr("ringq.intake.SLICE_ROWS", 2)


@pytest.mark.usefixtures("small_steps")
def test_a_submission_of_many_tasks_takes_several_steps_of_one_transaction(bench: Bench) -> None:
    bench.writer.submit(bench.batch(5, number=1))
    assert bench.writer.advance(lambda: None) is None
    assert bench.writer.is_under_way
    assert bench.writer.wait_ns(saturated=True) == 0
    assert (bench.replies, Query(bench.database).counts().get(Status.PENDING, 0)) == ([], 0)
    while (committed := bench.answered(bench.writer.advance(lambda: None))) is None:
        assert bench.replies == []
    assert bench.replies == [(1, False)]
    assert [list(tasks.ids) for tasks in committed.admitted] == [[1, 2, 3, 4, 5]]
    assert not bench.writer.is_under_way


@pytest.mark.usefixtures("small_steps")
def test_what_comes_between_two_steps_is_in_this_transaction_or_in_the_next(bench: Bench) -> None:
    bench.writer.submit(bench.batch(1, number=1))
    bench.commit()
    bench.writer.submit(bench.batch(4, number=2))
    assert bench.writer.advance(lambda: None) is None
    bench.writer.record([bench.receipt(1)])
    bench.writer.submit(bench.batch(1, number=3))
    bench.writer.submit(bench.batch(4, number=2))  # its client has lost the connection and asks again
    committed = bench.commit()
    assert [row[0] for row in committed.receipts] == [1]
    assert bench.replies == [(1, False), (2, False)]
    assert bench.writer.wait_ns(saturated=True) == 0
    bench.commit()
    assert bench.replies[2:] == [(6, False), (2, True)]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    "columns", [{}, {"run_at_us": [None, 1, None, 1, 1 << 50]}, {"specs": [SPEC], "spec_of": [0] * 5}]
)
def test_a_full_disk_between_two_steps_leaves_nothing_of_the_submission(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any]
) -> None:
    bench.writer.submit(bench.batch(5, number=1, **columns))
    assert bench.writer.advance(lambda: None) is None
    with monkeypatch.context() as full:
        full.setattr(bench.store, "insert_alike", _full)
        full.setattr(bench.store, "insert_tasks", _full)
        bench.commit()
    assert [type(error) for error in bench.errors] == [StorageFull]
    assert (bench.replies, Query(bench.database).counts().get(Status.PENDING, 0)) == ([], 0)
    bench.clock.advance(2)
    bench.writer.submit(bench.batch(5, number=1, **columns))
    bench.commit()
    assert bench.replies == [(1, False)]
    assert bench.store.count_active() == 5


def test_slots_are_freed_only_when_their_receipts_are_durable(bench: Bench) -> None:
    bench.writer.submit(bench.batch(5))
    bench.commit()
    bench.writer.record([bench.receipt(i) for i in range(1, 6)])
    assert bench.writer.uncommitted == 5
    bench.commit()
    assert bench.slots.receipts_when_freed == [0, 5]
    assert bench.writer.uncommitted == 0


def test_tasks_of_several_specs_go_to_their_lanes(bench: Bench) -> None:
    urgent = Spec("media::thumbnail", "default", 0, None, 500)
    bench.writer.submit(bench.batch(4, specs=[SPEC, urgent], spec_of=[0, 1, 1, 0]))
    admitted = {tasks.place[:2]: tasks.rows(9) for tasks in bench.commit().admitted}
    assert [row[0] for row in admitted[128, "default"]] == [1, 4]
    assert [(row[0], row[3]) for row in admitted[0, "default"]] == [(2, 500), (3, 500)]


def test_tasks_with_a_future_start_are_kept_back(bench: Bench) -> None:
    now = bench.clock.now_us()
    bench.writer.submit(bench.batch(3, run_at_us=[now + 1_000_000, None, now - 5]))
    committed = bench.commit()
    assert committed.delayed
    assert [task_id for tasks in committed.admitted for task_id in tasks.ids] == [2, 3]
    assert bench.store.next_due_us() == now + 1_000_000


def test_a_task_that_comes_due_is_given_on_only_when_that_is_durable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = bench.clock.now_us()
    bench.writer.submit(bench.batch(1, run_at_us=[now + 1]))
    bench.commit()
    bench.writer.come_due([1])
    with monkeypatch.context() as broken:
        broken.setattr(bench.store, "delete_delayed", _full)
        assert bench.commit().due == []
    assert bench.writer.has_due
    assert bench.commit().due == [1]
    assert not bench.writer.has_due
    assert bench.store.next_due_us() is None


def test_a_replayed_receipt_is_counted_and_changes_nothing(bench: Bench) -> None:
    bench.writer.submit(bench.batch(1))
    bench.commit()
    for lease in (1 << 32, 1 << 32, (1 << 32) + 9):
        bench.writer.record([bench.receipt(1, lease)])
        bench.commit()
    assert (bench.writer.statistics["replays"], bench.writer.statistics["stale"]) == (1, 1)
    query = Query(bench.database)
    assert [(s.status, s.count) for s in query.statistics()] == [(Status.COMPLETED, 1)]
    assert query.task(1).attempts[-1].lease == 1 << 32


def test_a_crash_is_recorded_before_the_task_is_given_back_and_the_third_is_final(bench: Bench) -> None:
    bench.writer.submit(bench.batch(1))
    bench.commit()
    for number in range(2):
        bench.crash(1, (1 << 32) + number)
        assert bench.commit().returned == [1]
        assert bench.store.attempts_summary() == {1: (number + 1, number + 1, 0, 0)}
    bench.crash(1, (1 << 32) + 2)
    committed = bench.commit()
    assert committed.returned == []
    query = Query(bench.database)
    record = query.task(1)
    assert (record.status, record.reason) == (Status.DEAD_LETTER, Reason.CRASH_LIMIT)
    assert bench.writer.interruptions == {}


def test_a_long_attempts_lease_goes_with_its_receipt(bench: Bench) -> None:
    bench.writer.submit(bench.batch(2))
    bench.commit()
    for _ in range(2):  # noticed twice, written once
        bench.writer.lease(1, 1 << 32, 1, 1, 0, bench.clock.now_us())
        bench.writer.lease(2, (1 << 32) + 1, 1, 1, 1, bench.clock.now_us())
    bench.commit()
    assert [row[0] for row in bench.store.leases()] == [1, 2]
    bench.writer.record([bench.receipt(1)])
    bench.crash(2, (1 << 32) + 1, Reason.STOPPED)
    bench.commit()
    assert bench.store.leases() == []


def test_a_lease_noticed_together_with_the_receipt_is_not_left_behind(bench: Bench) -> None:
    bench.writer.submit(bench.batch(1))
    bench.commit()
    bench.writer.lease(1, 1 << 32, 1, 1, 0, bench.clock.now_us())
    bench.writer.record([bench.receipt(1)])
    bench.commit()
    assert bench.store.leases() == []


def test_a_full_disk_refuses_submissions_and_keeps_receipts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.writer.submit(bench.batch(1, number=1))
    bench.commit()
    bench.writer.record([bench.receipt(1)])
    bench.crash(99, 5)
    bench.writer.submit(bench.batch(1, number=2))
    monkeypatch.setattr(bench.store, "insert_receipts", _full)
    freed = len(bench.slots.receipts_when_freed)
    committed = bench.commit()
    assert (committed.receipts, committed.admitted, committed.returned) == ([], [], [])
    assert [type(error) for error in bench.errors] == [StorageFull]
    assert len(bench.slots.receipts_when_freed) == freed
    assert bench.writer.wait_ns(saturated=False) == 1_000_000_000  # not tried again at once
    monkeypatch.undo()
    bench.clock.advance(1.0)
    assert bench.writer.wait_ns(saturated=False) == 0
    committed = bench.commit()
    assert [row[0] for row in committed.receipts] == [1]
    assert bench.writer.interruptions == {99: Interruptions(1, 1, 0)}  # counted once, though tried twice
    query = Query(bench.database)
    counts = query.counts()
    assert (counts[Status.COMPLETED], counts.get(Status.PENDING, 0)) == (1, 0)


def _full(*_: object) -> list[Any]:
    raise StorageFull


def test_the_writer_waits_only_while_workers_have_work_and_nobody_waits_for_an_answer(bench: Bench) -> None:
    writer = bench.writer
    assert writer.wait_ns(saturated=True) is None
    writer.record([bench.receipt(1)])
    assert writer.wait_ns(saturated=False) == 0
    assert writer.wait_ns(saturated=True) == 4_000_000
    bench.clock.advance(0.003)
    assert writer.wait_ns(saturated=True) == 1_000_000
    writer.submit(bench.batch(1))
    assert writer.wait_ns(saturated=True) == 0


def test_a_full_batch_does_not_wait(bench: Bench) -> None:
    bench.writer.record([bench.receipt(i) for i in range(1, 101)])
    assert bench.writer.wait_ns(saturated=True) == 0


@pytest.mark.usefixtures("small_steps")
def test_a_submission_with_a_spec_for_each_task_looks_each_up_once_and_in_steps(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringq.intake.SLICE_SPECS", 2)
    looked_up: list[Any] = []
    intern_spec = bench.store.intern_spec
    monkeypatch.setattr(bench.store, "intern_spec", lambda *spec: looked_up.append(spec) or intern_spec(*spec))
    specs = [replace(SPEC, group=str(n)) for n in range(5)]
    bench.writer.submit(bench.batch(5, specs=specs, spec_of=[4, 3, 2, 1, 0]))
    assert bench.writer.advance(lambda: None) is None
    assert len(looked_up) == 2
    bench.commit()
    assert len(looked_up) == 5
    assert [Query(bench.database).task(task_id).group for task_id in range(1, 6)] == ["4", "3", "2", "1", "0"]


@pytest.mark.usefixtures("small_steps")
def test_ids_are_known_as_stored_only_after_commit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.writer.submit(bench.batch(1, number=1))
    bench.writer.submit(bench.batch(5, number=2))
    for _ in range(2):
        assert bench.writer.advance(lambda: None) is None
    assert (bench.store.next_task_id, bench.store.stored_below) == (2, 1)
    with monkeypatch.context() as full:
        full.setattr(bench.store, "insert_alike", _full)
        bench.commit()
    assert bench.store.stored_below == 1
    bench.writer.submit(bench.batch(5, number=2))
    bench.commit()
    assert bench.store.stored_below == 6


def test_one_transaction_takes_about_as_many_tasks_as_one_submission_may_have_and_the_next_comes_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringq.writer.BATCH_TASKS_MAX", 5)
    for number, count in enumerate([3, 3, 3, 5, 1]):
        bench.writer.submit(bench.batch(count, number=number))
    bench.writer.record([bench.receipt(1)])
    bench.writer.come_due([2])
    taken = []
    while bench.writer.wait_ns(saturated=True) is not None:
        assert bench.writer.wait_ns(saturated=True) == 0
        taken.append([len(tasks.ids) for tasks in bench.commit().admitted])
    assert taken == [[3, 3], [3, 5], [1]]
    assert bench.slots.receipts_when_freed == [1, 1, 1]  # none waits for the others' tasks
    assert bench.replies == [(1, False), (4, False), (7, False), (10, False), (15, False)]


def test_a_full_disk_refuses_also_what_would_have_come_after(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.writer.BATCH_TASKS_MAX", 2)
    for number in range(3):
        bench.writer.submit(bench.batch(2, number=number))
    forgotten: list[protocol.Message] = []
    with monkeypatch.context() as full:
        full.setattr(bench.store, "insert_alike", _full)
        bench.writer.change(
            changes.of(
                protocol.ForgetMap("media::thumbnail", "key"), Admission(), 0, forgotten.append, bench.errors.append
            )
        )
        bench.commit()
    assert [type(error) for error in bench.errors] == [StorageFull] * 4
    assert bench.writer.wait_ns(saturated=False) is None
    bench.clock.advance(2)
    assert bench.writer.wait_ns(saturated=False) is None
    assert bench.commit().admitted == []
    assert (bench.replies, forgotten, len(bench.errors)) == ([], [], 4)


@pytest.mark.usefixtures("small_steps")
def test_a_full_disk_refuses_also_what_came_between_two_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.writer.submit(bench.batch(5, number=1))
    assert bench.writer.advance(lambda: None) is None
    bench.writer.submit(bench.batch(1, number=2))
    forgotten: list[protocol.Message] = []
    bench.writer.change(
        changes.of(protocol.ForgetMap("media::thumbnail", "key"), Admission(), 0, forgotten.append, bench.errors.append)
    )
    bench.writer.record([bench.receipt(1)])
    with monkeypatch.context() as full:
        full.setattr(bench.store, "insert_alike", _full)
        bench.commit()
    assert [type(error) for error in bench.errors] == [StorageFull] * 3
    bench.clock.advance(2)
    assert bench.writer.wait_ns(saturated=False) == 0
    committed = bench.commit()
    assert ([row[0] for row in committed.receipts], committed.admitted) == ([1], [])
    assert (bench.replies, forgotten) == ([], [])
