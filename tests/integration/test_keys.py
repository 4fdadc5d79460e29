"""Keys on a real database: what becomes of a submission whose key a task has that has not ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringq import changes, keys, protocol, recording, writer
from ringq.admission import Admission
from ringq.backlog import Backlog
from ringq.changes import RetryDead
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.dispatch import Dispatcher
from ringq.entries import Batch, Interruption, Spec
from ringq.errors import KeyInUse, RingqError, StorageFull
from ringq.feed import Feed
from ringq.gate import Gate
from ringq.harvest import Harvest
from ringq.model import CancelOutcome, OnDuplicate, Outcome, Reason, Status
from ringq.pool import Unstarted
from ringq.query import Query
from ringq.store import Store
from ringq.writer import Writer

SPEC = Spec("media::thumbnail", "default", 128, None, None)
URGENT = Spec("media::thumbnail", "default", 64, None, None)
OTHER = Spec("media::rotate", "default", 128, None, None)
SKIP, SUPERSEDE, REJECT = OnDuplicate.SKIP, OnDuplicate.SUPERSEDE, OnDuplicate.REJECT


class Slots:
    """A ring of so many slots that notes what is published, all of which a worker has at once."""

    def __init__(self) -> None:
        self.published: list[tuple[int, str]] = []

    def publish(self, tasks: Any, first_lease: int) -> int:
        self.published += [(row[0], row[4]) for row in tasks]
        return len(tasks)

    def ready(self) -> int:
        return 0

    def in_flight(self) -> int:
        return 0

    def free(self) -> int:
        return 0

    def revoke(self, task_id: int) -> bool | None:
        return False if task_id in dict(self.published) else None


class Bench:
    """Writer, backlog and dispatcher, joined as in the server."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.clock = ManualClock()
        self.numbers = iter(range(1, 10_000))
        self.answers: list[Any] = []
        self.open()

    def open(self) -> None:
        config = Config(self.database)
        self.store = Store.open(self.database, durability="normal")
        self.epoch = self.store.begin_epoch(1)
        self.writer = Writer(self.store, config, self.clock)
        self.feed = Feed(self.store, config, self.writer.interruptions)
        self.backlog: Backlog = self.feed.backlog
        self.slots = Slots()
        self.dispatcher = Dispatcher(
            self.slots, self.backlog, Gate(()), epoch=self.epoch, lookahead_ms=1, keyed=self.store.keyed
        )
        self.writer.reach = self.dispatcher
        self.writer.ring = self.slots
        self.feed.load_all()

    def reopen(self) -> None:
        self.store.close()
        self.open()

    def give(
        self, *keys: str | None, spec: Spec = SPEC, mode: OnDuplicate = SKIP, number: int | None = None,
        run_at: int | None = None, payloads: list[str] | None = None, names: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """Hand a submission to the writer: one task per key."""
        count = len(keys)
        self.writer.submit(
            Batch(
                submission=(number or 5000 + next(self.numbers)).to_bytes(16, "big"), specs=[spec], spec_of=None,
                payloads=payloads or ["{}"] * count, run_at_us=None if run_at is None else [run_at] * count,
                reply=lambda first, replayed, told=None: self.answers.append((first, replayed, told)),
                refuse=self.answers.append, keys=list(keys), on_duplicate=[mode.code] * count,
                names={spec.kind: list(names or (spec.kind,))},
            )
        )  # fmt: skip

    def commit(self) -> None:
        """As `Settlement.commit` does."""
        committed = self.writer.commit(lambda: None)
        self.dispatcher.came_back(row[0] for row in committed.receipts)
        self.dispatcher.came_back(committed.again)
        for tasks in committed.admitted:
            self.backlog.append(tasks)
        for lane in (*committed.withdrawn, *committed.removed):
            self.backlog.remove(*lane)
        for lane in committed.removed:
            self.backlog.remove(*lane)
        self.feed.give_back([*committed.due, *committed.returned])
        self.feed.look_for_delayed()
        for answer in committed.answers:
            answer()

    def submit(self, *keys: str | None, **options: Any) -> list[tuple[Outcome, int, int]]:
        """(outcome, id, id of what was superseded) per task."""
        self.give(*keys, **options)
        self.commit()
        return self.told(len(keys))

    def cancel(self, *task_ids: int) -> list[protocol.Cancelled]:
        """Hand it to the writer; where the answer will be."""
        answers: list[Any] = []
        message = protocol.Cancel(protocol.Selection(list(task_ids)))
        self.writer.change(changes.of(message, Admission(), 0, answers.append, answers.append))
        return answers

    def told(self, count: int, at: int = -1) -> list[tuple[Outcome, int, int]]:
        first, _, told = self.answers[at]
        if told is None:
            return [(Outcome.INSERTED, first + n, 0) for n in range(count)]
        return [(Outcome.of(code), *rest) for code, *rest in zip(*told, strict=True)]

    def run(self, workers: int = 9) -> list[int]:
        """Publish what may start."""
        before = len(self.slots.published)
        while self.dispatcher.fill(workers, 0):
            pass
        return [task_id for task_id, _ in self.slots.published[before:]]

    def end(self, *task_ids: int, status: Status = Status.COMPLETED, reason: Reason = Reason.NONE) -> None:
        result, error = ("1", None) if status is Status.COMPLETED else (None, "{}")
        now = self.clock.now_us()
        kind = self.store.intern_kind("media::thumbnail")
        self.writer.record(
            [
                (i, self.epoch << 32 | i, kind, 1, status.code, reason.code, now, 50, 0, None, None, result, error)
                for i in task_ids
            ]
        )

    def keys(self) -> list[int]:
        """Who has a key, by disk and, without who waits for one, in memory."""
        found = [row[0] for row in self.store._read("SELECT task_id FROM active_key ORDER BY task_id")]
        waiting = [row[0] for row in self.store._read("SELECT task_id FROM follower")]
        assert self.store.keyed == {*found, *waiting}
        return found

    def status(self, task_id: int) -> Status:
        return Query(self.database).task(task_id).status


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "t.db")
    yield bench
    bench.store.close()


def test_a_task_without_a_key_is_never_a_duplicate(bench: Bench) -> None:
    assert [outcome for outcome, _, _ in bench.submit(None, None, None)] == [Outcome.INSERTED] * 3
    assert bench.keys() == []


def test_a_duplicate_of_a_pending_task_is_told_its_id(bench: Bench) -> None:
    assert bench.submit("a") == [(Outcome.INSERTED, 1, 0)]
    assert bench.submit("a") == [(Outcome.DUPLICATE, 1, 0)]
    assert bench.submit("b") == [(Outcome.INSERTED, 2, 0)]
    assert bench.run() == [1, 2]


def test_the_same_key_of_another_kind_is_another_key(bench: Bench) -> None:
    assert bench.submit("a") == [(Outcome.INSERTED, 1, 0)]
    assert bench.submit("a", spec=OTHER) == [(Outcome.INSERTED, 2, 0)]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.DEAD_LETTER])
def test_the_key_is_free_however_its_task_ends(bench: Bench, status: Status) -> None:
    bench.submit("a")
    bench.run()
    bench.end(1, status=status, reason=Reason.PERMANENT if status is Status.FAILED else Reason.NONE)
    bench.commit()
    assert bench.keys() == []
    assert bench.submit("a") == [(Outcome.INSERTED, 2, 0)]


def test_a_key_is_held_over_a_restart_and_while_its_task_is_retried(bench: Bench) -> None:
    bench.submit("a")
    bench.run()
    now = bench.clock.now_us()
    bench.writer.interrupt(Interruption(1, bench.epoch << 32, 1, 1, 0, Reason.CRASH, now - 10, now, "{}"))
    bench.commit()
    assert bench.submit("a") == [(Outcome.DUPLICATE, 1, 0)]
    bench.reopen()
    assert bench.keys() == [1]
    assert bench.submit("a") == [(Outcome.DUPLICATE, 1, 0)]
    assert bench.run() == [1]


# -- a more urgent duplicate ----------------------------------------------------------------------


def test_a_more_urgent_duplicate_moves_the_pending_task_forward(bench: Bench) -> None:
    bench.submit("a")
    bench.submit("b")
    bench.submit("c")
    assert bench.submit("b", spec=URGENT) == [(Outcome.UPGRADED, 2, 0)]
    assert bench.submit("b", spec=URGENT) == [(Outcome.DUPLICATE, 2, 0)]
    assert len(bench.backlog) == 3
    assert bench.run() == [2, 1, 3]
    assert Query(bench.database).task(2).priority == 64


def test_a_less_urgent_duplicate_changes_nothing(bench: Bench) -> None:
    bench.submit("a", spec=URGENT)
    assert bench.submit("a") == [(Outcome.DUPLICATE, 1, 0)]
    assert Query(bench.database).task(1).priority == 64


def test_a_task_upgraded_twice_in_the_transaction_that_stored_it_runs_once(bench: Bench) -> None:
    bench.give(None, "a", None)
    bench.give("a", spec=Spec("media::thumbnail", "default", 100, None, None))
    bench.give("a", spec=URGENT)
    bench.commit()
    assert [bench.told(1, at)[0][:2] for at in (-2, -1)] == [(Outcome.UPGRADED, 2)] * 2
    assert bench.run() == [2, 1, 3]


def test_an_upgraded_task_whose_time_has_not_come_waits_for_it(bench: Bench) -> None:
    later = bench.clock.now_us() + 60_000_000
    bench.submit("a", run_at=later)
    assert bench.submit("a", spec=URGENT) == [(Outcome.UPGRADED, 1, 0)]
    assert bench.run() == []
    bench.clock.advance(61)
    bench.writer.come_due(bench.feed.due(bench.clock.now_us()))
    bench.commit()
    assert bench.run() == [1]
    assert [lane.priority for lane in bench.backlog.lanes()] == []


# -- a second run ---------------------------------------------------------------------------------


def test_a_second_run_asked_for_while_one_runs_comes_after_it_once(bench: Bench) -> None:
    bench.submit("a", payloads=['{"n":1}'])
    bench.run()
    assert bench.submit("a", payloads=['{"n":2}']) == [(Outcome.REQUEUED, 2, 0)]
    assert bench.submit("a", payloads=['{"n":3}']) == [(Outcome.DUPLICATE, 2, 0)]
    assert (bench.run(), bench.keys()) == ([], [1])
    bench.end(1)
    bench.commit()
    assert (bench.run(), bench.keys()) == ([2], [2])
    assert bench.slots.published == [(1, '{"n":1}'), (2, '{"n":2}')]
    bench.end(2)
    bench.commit()
    assert (bench.run(), bench.keys()) == ([], [])


def test_who_waits_survives_a_restart_and_starts_after_the_one_before(bench: Bench) -> None:
    bench.submit("a")
    bench.run()
    bench.submit("a")
    bench.reopen()
    assert bench.run() == [1]
    assert bench.submit("a") == [(Outcome.DUPLICATE, 2, 0)]
    bench.end(1, status=Status.FAILED, reason=Reason.PERMANENT)
    bench.commit()
    bench.reopen()
    assert bench.run() == [2]


def test_who_waits_is_upgraded_where_it_waits(bench: Bench) -> None:
    bench.submit("a")
    bench.run()
    bench.submit("a")
    assert bench.submit("a", spec=URGENT) == [(Outcome.UPGRADED, 2, 0)]
    assert bench.run() == []
    bench.submit(None)
    bench.end(1)
    bench.commit()
    assert bench.run() == [2, 3]


def test_a_second_run_with_a_time_of_its_own_waits_for_that_too(bench: Bench) -> None:
    bench.submit("a")
    bench.run()
    later = bench.clock.now_us() + 60_000_000
    assert bench.submit("a", run_at=later) == [(Outcome.REQUEUED, 2, 0)]
    bench.end(1)
    bench.commit()
    assert (bench.run(), bench.store.count_delayed(), bench.keys()) == ([], 1, [2])
    bench.clock.advance(61)
    bench.writer.come_due(bench.feed.due(bench.clock.now_us()))
    bench.commit()
    assert bench.run() == [2]


def test_who_waits_stays_behind_a_task_that_is_tried_again(bench: Bench) -> None:
    bench.submit("a")
    bench.run()
    bench.submit("a")
    now = bench.clock.now_us()
    bench.writer.interrupt(Interruption(1, bench.epoch << 32, 1, 1, 0, Reason.CRASH, now - 10, now, "{}"))
    bench.commit()
    assert bench.run() == [1]
    bench.end(1)
    bench.commit()
    assert bench.run() == [2]


def test_the_mark_may_pass_who_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.store.tasks.LAG_MAX", 10)
    bench.submit("a")
    bench.run()
    bench.submit("a")
    bench.submit(*[None] * 40)
    bench.run()
    bench.end(*range(3, 43))
    bench.commit()
    with bench.store.transaction():
        bench.store.leave_stragglers(1000)
    assert bench.store.low_water > 2
    bench.reopen()
    assert bench.run() == [1]
    bench.end(1)
    bench.commit()
    assert bench.run() == [2]


# -- supersede, reject ----------------------------------------------------------------------------


def test_a_pending_task_is_superseded_and_never_runs(bench: Bench) -> None:
    bench.submit("a", "b")
    assert bench.submit("a", mode=SUPERSEDE, payloads=['{"n":2}']) == [(Outcome.SUPERSEDED, 3, 1)]
    assert bench.run() == [2, 3]
    record = Query(bench.database).task(1)
    assert (record.status, record.reason) == (Status.SUPERSEDED, Reason.REPLACED)
    assert record.error == {"type": "Replaced", "message": "task 3 took its place", "task": 3}
    assert bench.keys() == [2, 3]


def test_what_a_large_batch_replaces_ends_a_few_in_each_step_of_its_transaction(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "STEP_NS", 0)
    monkeypatch.setattr(recording, "AT_ONCE", 3)
    monkeypatch.setattr(keys, "PART", 4)
    names = [f"k{n}" for n in range(10)]
    bench.submit(*names)
    sizes: list[int] = []
    insert = bench.store.insert_receipts

    def counted(rows: Any) -> Any:
        sizes[-1] += len(rows)
        return insert(rows)

    monkeypatch.setattr(bench.store, "insert_receipts", counted)
    bench.give(*names, mode=SUPERSEDE)
    committed = None
    while committed is None:
        sizes.append(0)
        committed = bench.writer.advance(lambda: None)
    assert [size for size in sizes if size] == [3, 3, 3, 1]
    assert len(sizes) > 4 + 2 * 3  # its keys are gone through in parts, twice
    assert sizes[-1] == 0
    assert [row[0] for row in committed.receipts] == list(range(1, 11))
    assert (committed.returned, bench.keys()) == ([], list(range(11, 21)))


@pytest.mark.parametrize("mode", [SKIP, SUPERSEDE])
def test_a_second_run_under_another_name_of_the_kind_waits_for_the_first(bench: Bench, mode: OnDuplicate) -> None:
    names = (OTHER.kind, SPEC.kind)
    bench.submit("a")
    assert bench.run() == [1]
    assert bench.submit("a", spec=OTHER, mode=mode, names=names) == [(Outcome.REQUEUED, 2, 0)]
    assert bench.submit("a", spec=OTHER, mode=SUPERSEDE, names=names) == [(Outcome.SUPERSEDED, 3, 2)]
    assert (bench.run(), bench.status(2)) == ([], Status.SUPERSEDED)
    bench.end(1)
    bench.commit()
    assert (bench.run(), bench.keys()) == ([3], [3])
    assert bench.submit("a", spec=OTHER, mode=REJECT, names=names) == [(Outcome.REJECTED, 3, 0)]
    bench.end(3)
    bench.commit()
    assert bench.keys() == []
    assert bench.submit("a", spec=OTHER, names=names) == [(Outcome.INSERTED, 4, 0)]


def test_who_takes_the_place_of_a_task_under_another_name_has_its_key_alone(bench: Bench) -> None:
    names = (OTHER.kind, SPEC.kind)
    bench.submit("a", "b")
    assert bench.submit("a", spec=OTHER, mode=SUPERSEDE, names=names) == [(Outcome.SUPERSEDED, 3, 1)]
    assert Query(bench.database).task(1).attempts == ()
    counts = {(one.kind, one.status): one.count for one in Query(bench.database).statistics()}
    assert counts == {(SPEC.kind, Status.SUPERSEDED): 1}
    assert bench.keys() == [2, 3]
    bench.reopen()
    assert bench.keys() == [2, 3]
    assert bench.submit("a", spec=SPEC, names=names) == [(Outcome.DUPLICATE, 3, 0)]
    assert bench.submit("b", spec=replace(OTHER, priority=1), names=names) == [(Outcome.UPGRADED, 2, 0)]
    assert Query(bench.database).task(2).kind == SPEC.kind


def test_who_inherited_a_key_from_another_name_of_its_kind_leaves_nothing_of_it_when_it_is_superseded(
    bench: Bench,
) -> None:
    names = (OTHER.kind, SPEC.kind)
    bench.submit("a")
    bench.run()
    assert bench.submit("a", spec=OTHER, names=names) == [(Outcome.REQUEUED, 2, 0)]
    bench.end(1)
    bench.commit()
    assert bench.submit("a", spec=OTHER, mode=SUPERSEDE, names=names) == [(Outcome.SUPERSEDED, 3, 2)]
    assert bench.keys() == [3]
    assert bench.run() == [3]
    bench.end(3)
    bench.commit()
    assert bench.submit("a", spec=OTHER, names=names) == [(Outcome.INSERTED, 4, 0)]


def test_each_of_a_chain_in_one_transaction_takes_the_place_of_the_one_before(bench: Bench) -> None:
    for _ in range(4):
        bench.give("a", mode=SUPERSEDE)
    bench.commit()
    assert [bench.told(1, at)[0] for at in range(-4, 0)] == [
        (Outcome.INSERTED, 1, 0),
        *((Outcome.SUPERSEDED, n, n - 1) for n in (2, 3, 4)),
    ]
    assert (bench.run(), len(bench.backlog), bench.keys()) == ([4], 0, [4])


def test_a_delayed_task_is_superseded(bench: Bench) -> None:
    bench.submit("a", run_at=bench.clock.now_us() + 60_000_000)
    assert bench.submit("a", mode=SUPERSEDE) == [(Outcome.SUPERSEDED, 2, 1)]
    assert (bench.store.count_delayed(), bench.run()) == (0, [2])


def test_a_running_task_is_not_stopped_by_its_successor(bench: Bench) -> None:
    bench.submit("a")
    bench.run()
    assert bench.submit("a", mode=SUPERSEDE) == [(Outcome.REQUEUED, 2, 0)]
    assert bench.submit("a", mode=SUPERSEDE) == [(Outcome.SUPERSEDED, 3, 2)]
    assert (bench.run(), bench.status(2)) == ([], Status.SUPERSEDED)
    bench.end(1)
    bench.commit()
    assert (bench.run(), bench.keys()) == ([3], [3])


def test_superseding_a_task_that_is_tried_again_takes_the_place_of_who_waits_too(bench: Bench) -> None:
    bench.submit("a")
    bench.run()
    bench.submit("a")
    now = bench.clock.now_us()
    bench.writer.interrupt(Interruption(1, bench.epoch << 32, 1, 1, 0, Reason.CRASH, now - 10, now, "{}"))
    bench.commit()
    assert bench.submit("a", mode=SUPERSEDE) == [(Outcome.SUPERSEDED, 3, 1)]
    assert (bench.status(1), bench.status(2)) == (Status.SUPERSEDED, Status.SUPERSEDED)
    assert (bench.run(), bench.keys()) == ([3], [3])
    assert len(Query(bench.database).task(1).attempts) == 1


def test_a_rejected_submission_changes_nothing(bench: Bench) -> None:
    bench.submit("a")
    assert bench.submit("a", mode=REJECT, spec=URGENT) == [(Outcome.REJECTED, 1, 0)]
    bench.run()
    assert bench.submit("a", mode=REJECT) == [(Outcome.REJECTED, 1, 0)]
    assert bench.submit("b", mode=REJECT) == [(Outcome.INSERTED, 2, 0)]


@pytest.mark.parametrize("point", ["insert_outcome", "add_statistics", "delete_delayed"])
def test_a_full_disk_leaves_the_superseded_and_the_upgraded_task_where_they_were(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    later = bench.clock.now_us() + 60_000_000
    bench.submit("a", "b", "c")
    bench.submit("d", run_at=later)

    def full(*_: object) -> None:
        raise StorageFull

    with monkeypatch.context() as patched:
        patched.setattr(bench.store, point, full)
        bench.give("b", spec=URGENT)
        bench.give("a", "d", mode=SUPERSEDE)
        bench.commit()
    assert all(isinstance(answer, StorageFull) for answer in bench.answers[-2:])
    assert bench.keys() == [1, 2, 3, 4]
    bench.clock.advance(2)
    assert bench.submit("b", "c", mode=SUPERSEDE) == [(Outcome.SUPERSEDED, 5, 2), (Outcome.SUPERSEDED, 6, 3)]
    assert bench.run() == [1, 5, 6]
    assert (len(bench.backlog), bench.store.count_delayed()) == (0, 1)


# -- batches --------------------------------------------------------------------------------------


def test_in_a_batch_the_last_of_equal_keys_wins(bench: Bench) -> None:
    answers = bench.submit("a", None, "a", "b", "a", payloads=[f'{{"n":{n}}}' for n in range(5)])
    assert answers == [
        (Outcome.DUPLICATE, 3, 0),
        (Outcome.INSERTED, 1, 0),
        (Outcome.DUPLICATE, 3, 0),
        (Outcome.INSERTED, 2, 0),
        (Outcome.INSERTED, 3, 0),
    ]
    bench.run()
    assert bench.slots.published == [(1, '{"n":1}'), (2, '{"n":3}'), (3, '{"n":4}')]


def test_a_batch_of_nothing_but_duplicates_is_told_so(bench: Bench) -> None:
    bench.submit("a", "b")
    assert bench.submit("b", "a") == [(Outcome.DUPLICATE, 2, 0), (Outcome.DUPLICATE, 1, 0)]
    assert bench.submit(None) == [(Outcome.INSERTED, 3, 0)]


def test_a_repeated_submission_is_told_the_same_whatever_has_happened_since(bench: Bench) -> None:
    bench.submit("a")
    first = bench.submit("a", None, "b", mode=SUPERSEDE, number=77)
    bench.run()
    bench.end(2, 3, 4)
    bench.commit()
    bench.reopen()
    assert bench.submit("a", None, "b", mode=SUPERSEDE, number=77) == first
    assert bench.answers[-1][1] is True
    assert bench.store.next_task_id == 5
    with bench.store.transaction():
        bench.store.prune_submissions(bench.clock.now_us() + 1)
    assert bench.store.find_outcome((77).to_bytes(16, "big")) is not None  # others are still known, and older
    with bench.store.transaction():
        bench.store.insert_submission(b"\xff" * 16, 1, 1, bench.clock.now_us() + 10)
        bench.store.prune_submissions(bench.clock.now_us() + 1)
    assert bench.store.find_outcome((77).to_bytes(16, "big")) is None


def test_a_large_batch_with_keys_is_decided_in_steps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringq.writer.STEP_NS", 0)
    monkeypatch.setattr("ringq.keys.SLICE_KEYS", 2)
    monkeypatch.setattr("ringq.intake.SLICE_ROWS", 2)
    bench.submit("c")
    bench.give(*"abcdefg", mode=SUPERSEDE)
    assert bench.writer.advance(lambda: None) is None
    while bench.writer.is_under_way and (committed := bench.writer.advance(lambda: None)) is None:
        assert bench.run() in ([], [1])  # until it is its turn, the task may be published
    for tasks in committed.admitted:
        bench.backlog.append(tasks)
    for answer in committed.answers:
        answer()
    assert [task_id for _, task_id, _ in bench.told(7)] == list(range(2, 9))


# -- dead letters ---------------------------------------------------------------------------------


def die(bench: Bench, key: str) -> int:
    ((_, task_id, _),) = bench.submit(key)
    bench.run()
    bench.end(task_id, status=Status.DEAD_LETTER, reason=Reason.RETRY_LIMIT)
    bench.commit()
    return task_id


def retry(bench: Bench, dead: protocol.Dead) -> Any:
    answers: list[protocol.Message | RingqError] = []
    bench.writer.change(RetryDead(dead, answers.append, answers.append))
    bench.commit()
    return answers[0]


def test_a_dead_letter_that_lives_again_has_its_key_again(bench: Bench) -> None:
    die(bench, "a")
    assert retry(bench, protocol.Dead([1])) == protocol.Changed(1)
    assert bench.keys() == [1]
    assert bench.submit("a") == [(Outcome.DUPLICATE, 1, 0)]


def test_a_dead_letter_whose_key_another_task_has_stays_dead(bench: Bench) -> None:
    die(bench, "a")
    die(bench, "b")
    bench.submit("a")
    refused = retry(bench, protocol.Dead([1, 2]))
    assert isinstance(refused, KeyInUse)
    assert str(refused) == "task 1 cannot be retried: task 3 has its key 'a' and has not ended"
    assert [bench.status(task_id) for task_id in (1, 2)] == [Status.DEAD_LETTER] * 2
    assert retry(bench, protocol.Dead(limit=5)) == protocol.Changed(1)
    assert [bench.status(task_id) for task_id in (1, 2)] == [Status.DEAD_LETTER, Status.PENDING]


def test_of_several_dead_letters_with_one_key_the_first_lives_again(bench: Bench) -> None:
    assert [die(bench, key) for key in "aaab"] == [1, 2, 3, 4]
    first = retry(bench, protocol.Dead(limit=2))
    assert first.count == 1
    assert retry(bench, protocol.Dead(limit=2, after=first.after)) == protocol.Changed(1)
    assert bench.run() == [1, 4]
    assert isinstance(retry(bench, protocol.Dead([2, 3])), KeyInUse)


# -- cancelled in the same transaction, or while it waits ------------------------------------------


def test_a_cancelled_task_that_waited_behind_another_is_missed_in_no_lane(bench: Bench) -> None:
    bench.submit("k")
    assert bench.run() == [1]
    assert bench.submit("k") == [(Outcome.REQUEUED, 2, 0)]
    bench.submit(None)
    answers = bench.cancel(2)
    bench.commit()
    assert answers[0].outcomes == [CancelOutcome.CANCELLED.code]
    assert len(bench.backlog) == 1
    assert bench.run() == [3]
    assert bench.keys() == [1]


def test_a_task_upgraded_and_cancelled_in_one_transaction_is_missed_in_no_lane(bench: Bench) -> None:
    bench.submit("k")
    bench.submit(None, spec=URGENT)
    bench.give("k", spec=URGENT)
    answers = bench.cancel(1)
    bench.commit()
    assert answers[0].outcomes == [CancelOutcome.CANCELLED.code]
    assert len(bench.backlog) == 1
    assert bench.run() == [2]


def test_a_task_superseded_and_cancelled_in_one_transaction_ends_once(bench: Bench) -> None:
    bench.submit("k")
    bench.give("k", mode=SUPERSEDE)
    answers = bench.cancel(1)
    bench.commit()
    assert bench.told(1) == [(Outcome.SUPERSEDED, 2, 1)]
    assert (answers[0].outcomes, answers[0].statuses) == ([CancelOutcome.TOO_LATE.code], [Status.SUPERSEDED.code])
    assert bench.status(1) is Status.SUPERSEDED
    assert [(one.status, one.count) for one in Query(bench.database).statistics()] == [(Status.SUPERSEDED, 1)]
    assert bench.keys() == [2]
    assert bench.run() == [2]


def test_a_cancelled_task_that_came_back_with_its_segment_is_not_superseded_as_well(bench: Bench) -> None:
    bench.submit("k")
    assert bench.run() == [1]
    answers = bench.cancel(1)
    bench.commit()
    assert answers[0].outcomes == [CancelOutcome.CANCELLING.code]
    assert bench.writer.give_back([1]) == []  # the segment is given up
    bench.dispatcher.begin(bench.slots, bench.epoch + 1)
    bench.slots.published.clear()
    assert bench.submit("k", mode=SUPERSEDE) == [(Outcome.REQUEUED, 2, 0)]
    assert bench.status(1) is Status.CANCELLED
    assert [(one.status, one.count) for one in Query(bench.database).statistics()] == [(Status.CANCELLED, 1)]
    assert len(bench.backlog) == 1
    assert bench.run() == [2]


class Dead:
    """A pool whose worker died between claiming a task and beginning it, and the ring."""

    found_damage = False

    def __init__(self, task_id: int) -> None:
        self.reports = [Unstarted(task_id)]

    def reap(self) -> list[Unstarted]:
        return self.reports

    def healthy(self) -> bool:
        return True

    def running(self) -> list[Any]:
        return []

    def free(self) -> int:
        return 0


def test_a_task_that_came_back_before_it_began_is_pending_again(bench: Bench) -> None:
    bench.submit("k")
    assert bench.run() == [1]
    dead: Any = Dead(1)
    Harvest(
        Config(bench.database), bench.clock, dead, dead, bench.writer, bench.feed, bench.dispatcher
    ).bury()  # fmt: skip
    assert bench.submit("k", mode=SUPERSEDE) == [(Outcome.SUPERSEDED, 2, 1)]
    assert bench.run() == [2]
