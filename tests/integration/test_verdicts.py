"""Attempts that fail, on a real database: again at once or later, counted once, and what is left of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ringq import changes, protocol, recover
from ringq.admission import Admission
from ringq.clock import ManualClock
from ringq.config import Config
from ringq.entries import Batch, Interruption, Spec
from ringq.errors import NotDead, RingqError, StorageFull, UnknownTask
from ringq.expiry import Expiries
from ringq.feed import Feed
from ringq.lifecycle import Interruptions
from ringq.model import Reason, Status, TaskRecord
from ringq.query import Query
from ringq.store import OwnerLock, Store, history
from ringq.writer import Writer

PLAIN = Spec("media::thumbnail", "default", 128, None, None)
TWICE = replace(PLAIN, retry="2")
LATER = replace(PLAIN, retry="2 linear 10s+5s")
EPOCH = 1 << 32


class Office:
    """A writer on a database that can be closed and opened again."""

    def __init__(self, database: Path, **config: Any) -> None:
        self.config = Config(database, **config)
        self.clock = ManualClock()
        self.answers: list[Any] = []
        self.leases = 0
        self.lock = OwnerLock(database)
        self.open()

    def open(self) -> None:
        self.store = Store.open(self.config.database, durability="normal")
        self.store.begin_epoch(1)
        self.writer = Writer(self.store, self.config, self.clock)

    def reopen(self) -> None:
        """As a new parent would find it after the old one was killed."""
        self.store.close()
        self.open()

    def submit(self, *specs: Spec, run_at_us: int | None = None) -> list[int]:
        first = self.store.next_task_id
        times = None if run_at_us is None else [run_at_us] * len(specs)
        self.leases += 1
        self.writer.submit(
            Batch(
                self.leases.to_bytes(16, "big"), list(specs), list(range(len(specs))), ["{}"] * len(specs), times,
                lambda *_: None, self.answers.append,
            )
        )  # fmt: skip
        self.commit()
        return list(range(first, self.store.next_task_id))

    def commit(self, lowest_active: int | None = None) -> Any:
        committed = self.writer.commit(lambda: lowest_active)
        for answer in committed.answers:
            answer()
        return committed

    def row(
        self, task_id: int, reason: Reason = Reason.HANDLER_ERROR, error: str = '{"type":"E"}', status: int = 11
    ) -> Any:
        """A receipt, of a lease of its own."""
        self.leases += 1
        attempt = 1 + self.writer.interruptions.get(task_id, Interruptions()).attempts
        body = (None, error) if status == Status.FAILED.code else ("1", None)
        now_us = self.clock.now_us()
        return (task_id, EPOCH + self.leases, 1, attempt, status, reason.code, now_us, 50, 0, None, None, *body)

    def fail(self, task_id: int, reason: Reason = Reason.HANDLER_ERROR, error: str = '{"type":"E"}') -> Any:
        self.writer.record([self.row(task_id, reason, error)])
        return self.commit()

    def complete(self, task_id: int) -> Any:
        self.writer.record([self.row(task_id, Reason.NONE, status=Status.COMPLETED.code)])
        return self.commit()

    def cut_off(self, task_id: int, reason: Reason) -> Any:
        self.leases += 1
        now_us = self.clock.now_us()
        self.writer.interrupt(Interruption(task_id, EPOCH + self.leases, 1, 1, 0, reason, now_us, now_us, "{}"))
        return self.commit()

    def bury(self, *task_ids: int) -> None:
        """Have these crash until they are dead letters."""
        for task_id in task_ids:
            for _ in range(3):
                self.cut_off(task_id, Reason.CRASH)
            assert self.record(task_id).status == Status.DEAD_LETTER

    def dead(self, verb: Any, ids: list[int] | None = None, **which: Any) -> Any:
        given = {"kind": None, "queue": None, "before_us": None, "limit": 1000} | which
        message = verb(protocol.Dead(ids, *given.values()))
        self.writer.change(changes.of(message, Admission(), 0, self.answers.append, self.answers.append))
        return self.commit()

    def record(self, task_id: int) -> TaskRecord:
        return Query(self.config.database).task(task_id)

    def findings(self, *rows: Any, running: tuple[Any, ...] = ()) -> tuple[Any, Any]:
        """What recovery makes of a segment that still holds these receipts."""
        self.config.runtime_dir.mkdir(exist_ok=True)
        return recover._findings(self.config, self.store, self.clock, _Remains(list(rows), list(running)))  # type: ignore[arg-type]


class _Remains:
    """The segment of a parent that was killed."""

    def __init__(self, rows: list[Any], running: list[Any]) -> None:
        self._rows, self._running = rows, running

    def receipts(self) -> tuple[list[Any], list[int], list[Any]]:
        return list(self._rows), [], []

    def running(self) -> list[Any]:
        return self._running


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path / "t.db")
    yield office
    office.store.close()
    office.lock.release()


def active(store: Store) -> list[int]:
    return [task_id for rows in store.active_ids() for task_id, _ in rows]


# -- failures -----------------------------------------------------------------------------------------


def test_a_failure_without_a_policy_ends_the_task(office: Office) -> None:
    (task_id,) = office.submit(PLAIN)
    assert office.fail(task_id).returned == []
    record = office.record(task_id)
    assert (record.status, record.reason, record.attempt_count) == (Status.FAILED, Reason.HANDLER_ERROR, 1)


def test_the_servers_policy_is_for_tasks_that_have_none_of_their_own(tmp_path: Path) -> None:
    office = Office(tmp_path / "t.db", retry="1")
    plain, never = office.submit(PLAIN, replace(PLAIN, retry="0"))
    assert office.fail(plain).returned == [plain]
    assert office.fail(never).returned == []
    assert office.record(never).status == Status.FAILED
    office.store.close()
    office.lock.release()


def test_a_failed_task_is_given_back_at_once_its_attempt_on_record_until_its_retries_are_used_up(
    office: Office,
) -> None:
    (task_id,) = office.submit(TWICE)
    for failures in (1, 2):
        committed = office.fail(task_id)
        assert (committed.again, committed.returned, committed.receipts) == ([task_id], [task_id], [])
        record = office.record(task_id)
        assert (record.status, record.retry, record.attempt_count) == (Status.PENDING, "2", failures)
        assert [(one.attempt, one.status, one.reason) for one in record.attempts] == [
            (number, None, Reason.HANDLER_ERROR) for number in range(1, failures + 1)
        ]
    committed = office.fail(task_id)
    assert (committed.again, committed.returned) == ([], [])
    record = office.record(task_id)
    assert (record.status, record.reason, record.attempt_count) == (Status.DEAD_LETTER, Reason.RETRY_LIMIT, 3)
    assert office.writer.interruptions == {}


def test_a_retry_that_completes_leaves_its_failures_in_the_record(office: Office) -> None:
    (task_id,) = office.submit(TWICE)
    office.fail(task_id)
    office.complete(task_id)
    record = office.record(task_id)
    assert (record.status, [one.reason for one in record.attempts]) == (
        Status.COMPLETED, [Reason.HANDLER_ERROR, Reason.NONE],
    )  # fmt: skip
    assert office.writer.interruptions == {}


def test_a_retry_with_a_delay_waits_until_its_time_has_come(office: Office) -> None:
    (task_id,) = office.submit(LATER)
    for delay_s in (10, 15):
        committed = office.fail(task_id)
        due_us = office.clock.now_us() + delay_s * 1_000_000
        assert (committed.delayed, committed.returned) == (True, [])
        assert (office.store.next_due_us(), active(office.store)) == (due_us, [])
        assert office.record(task_id).run_at.timestamp() == pytest.approx(due_us / 1e6)  # type: ignore[union-attr]
        office.clock.advance(delay_s)
        assert office.store.due((-1, -1), office.clock.now_us(), 9) == [(due_us, task_id)]
        office.writer.come_due([task_id])
        assert office.commit().due == [task_id]
        assert (office.store.next_due_us(), active(office.store)) == (None, [task_id])
    assert office.fail(task_id).receipts[0][4:6] == (Status.DEAD_LETTER.code, Reason.RETRY_LIMIT.code)


def test_the_handlers_delay_takes_the_place_of_the_policys(office: Office) -> None:
    (task_id,) = office.submit(LATER)
    office.fail(task_id, Reason.RETRY_LATER, '{"after_s": 77.0}')
    assert office.store.next_due_us() == office.clock.now_us() + 77_000_000


def test_snoozing_uses_up_no_retry_however_often_and_gives_the_attempt_back(office: Office) -> None:
    (task_id,) = office.submit(replace(PLAIN, retry="1"))
    for _ in range(10):
        office.fail(task_id, Reason.SNOOZED, '{"after_s": 1.0}')
        office.writer.come_due([task_id])
        office.commit()
    record = office.record(task_id)
    assert (record.status, record.attempt_count, len(record.attempts)) == (Status.PENDING, 0, 10)
    assert office.fail(task_id).returned == [task_id]
    office.fail(task_id)
    assert office.record(task_id).attempt_count == 2


def test_a_cancelled_task_has_ended_as_cancelled(office: Office) -> None:
    (task_id,) = office.submit(TWICE)
    office.fail(task_id, Reason.CANCELLED)
    assert (office.record(task_id).status, office.writer.interruptions) == (Status.CANCELLED, {})


def test_worker_deaths_and_failures_are_counted_apart(office: Office) -> None:
    (task_id,) = office.submit(TWICE)
    for end in (Reason.CRASH, None, Reason.CRASH, None):
        committed = office.fail(task_id) if end is None else office.cut_off(task_id, end)
        assert committed.returned == [task_id]
    assert office.writer.interruptions == {task_id: Interruptions(4, 2, 0, 2)}
    office.cut_off(task_id, Reason.CRASH)
    assert office.record(task_id).reason == Reason.CRASH_LIMIT


def test_a_run_that_took_too_long_is_tried_again_as_a_failure_is(office: Office) -> None:
    task_id, plain = office.submit(TWICE, PLAIN)
    office.cut_off(plain, Reason.RUN_TIMEOUT)
    assert (office.record(plain).status, office.record(plain).reason) == (Status.FAILED, Reason.RUN_TIMEOUT)
    assert office.cut_off(task_id, Reason.RUN_TIMEOUT).returned == [task_id]
    assert office.fail(task_id, Reason.RUN_TIMEOUT).returned == [task_id]
    office.cut_off(task_id, Reason.RUN_TIMEOUT)
    assert (office.record(task_id).status, office.record(task_id).reason) == (Status.DEAD_LETTER, Reason.RETRY_LIMIT)


# -- what survives --------------------------------------------------------------------------------------


def test_the_counts_survive_reopening(office: Office) -> None:
    now, later, snoozing = office.submit(TWICE, LATER, TWICE)
    office.fail(now)
    office.cut_off(now, Reason.CRASH)
    office.fail(later)
    office.fail(snoozing, Reason.SNOOZED, '{"after_s": 1.0}')
    counts = dict(office.writer.interruptions)
    assert (counts[now], counts[later]) == (Interruptions(2, 1, 0, 1), Interruptions(1, 0, 0, 1))
    office.reopen()
    assert office.writer.interruptions == counts
    assert office.store.next_due_us() == office.clock.now_us() + 1_000_000
    assert office.fail(now).returned == [now]
    office.fail(now)
    assert office.record(now).reason == Reason.RETRY_LIMIT


def test_a_full_disk_leaves_the_counts_as_they_were(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    now, later = office.submit(TWICE, LATER)
    office.fail(now)
    before = dict(office.writer.interruptions)
    office.writer.record([office.row(now), office.row(later)])
    with monkeypatch.context() as full:
        full.setattr(office.store, "put_off", _full)
        committed = office.commit()
    assert (committed.again, committed.returned, committed.delayed) == ([], [], False)
    assert office.writer.interruptions == before
    assert (len(office.record(now).attempts), office.store.next_due_us()) == (1, None)
    office.clock.advance(2)
    committed = office.commit()
    assert (committed.returned, committed.delayed) == ([now], True)
    assert office.writer.interruptions == {now: Interruptions(2, 0, 0, 2), later: Interruptions(1, 0, 0, 1)}


def _full(*_: object) -> None:
    raise StorageFull


@pytest.mark.parametrize("spec", [TWICE, LATER, replace(PLAIN, retry="1"), PLAIN])
@pytest.mark.parametrize("reason", [Reason.HANDLER_ERROR, Reason.RETRY_LATER, Reason.SNOOZED, Reason.CANCELLED])
def test_a_failure_found_again_after_the_parents_death_is_counted_once(
    office: Office, spec: Spec, reason: Reason
) -> None:
    """The parent was killed between COMMIT and freeing the slot."""
    (task_id,) = office.submit(spec)
    row = office.row(task_id, reason, '{"after_s": 5.0}' if reason is Reason.SNOOZED else "{}")
    office.writer.record([row])
    office.commit()
    counts, record, due = dict(office.writer.interruptions), office.record(task_id), office.store.next_due_us()
    office.reopen()
    office.clock.advance(60)
    receipts, lost = office.findings(row)
    office.writer.record(receipts)
    for one in lost:
        office.writer.interrupt(one)
    office.commit()
    assert office.writer.interruptions == counts
    assert office.record(task_id) == record
    assert (office.store.next_due_us(), office.store.count_delayed()) == (due, int(due is not None))


def test_a_failure_that_nobody_recorded_is_adopted_and_its_task_tried_again(office: Office) -> None:
    recorded, new = office.submit(TWICE, TWICE)
    rows = [office.row(recorded), office.row(new)]
    office.writer.record(rows[:1])
    office.commit()
    office.reopen()
    receipts, lost = office.findings(*rows)
    assert (receipts, lost) == (rows[1:], [])
    office.writer.record(receipts)
    assert office.commit().returned == [new]
    assert [office.record(task_id).attempt_count for task_id in (recorded, new)] == [1, 1]


def test_a_task_that_snoozes_for_ever_keeps_its_first_and_its_newest_attempts(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "GIVEN_BACK_KEPT", 3)
    task_id, other = office.submit(TWICE, TWICE)
    snooze = '{"type":"Snooze","after_s":0}'
    office.fail(other, Reason.SNOOZED, snooze)
    for _ in range(5):
        office.writer.keep_output(task_id, EPOCH + office.leases + 1, b"printed", b"", 0)
        office.fail(task_id, Reason.SNOOZED, snooze)
    office.fail(task_id)
    for _ in range(4):
        office.fail(task_id, Reason.THROTTLED, snooze)
    office.fail(task_id)
    record = office.record(task_id)
    leases = [one.lease - record.attempts[0].lease for one in record.attempts]
    assert leases == [0, 5, 7, 8, 9, 10]
    counted = [one.attempt for one in record.attempts if one.reason == Reason.HANDLER_ERROR]
    assert (counted, record.attempt_count) == ([1, 2], 2)
    assert [one.lease for one in Query(office.config.database).output(task_id)] == [record.attempts[0].lease]
    assert office.store._driver.execute("SELECT COUNT(*) FROM output").fetchone() == (1,)
    assert len(office.record(other).attempts) == 1
    counts = dict(office.writer.interruptions)
    office.reopen()
    assert office.writer.interruptions == {i: count for i, count in counts.items() if count.attempts} | {
        other: Interruptions()
    }


# -- dead letters ---------------------------------------------------------------------------------------


def test_a_dead_letter_that_is_retried_begins_anew_and_keeps_its_record(office: Office) -> None:
    (task_id,) = office.submit(TWICE)
    for _ in range(3):
        office.fail(task_id)
    assert office.dead(protocol.RetryDead, [task_id]).returned == [task_id]
    assert office.answers == [protocol.Changed(1)]
    record = office.record(task_id)
    assert (record.status, record.attempt_count, record.ended_at) == (Status.PENDING, 3, None)
    assert [one.status for one in record.attempts] == [None, None, Status.DEAD_LETTER]
    assert Query(office.config.database).statistics() == []
    office.reopen()
    assert office.writer.interruptions == {task_id: Interruptions(3)}
    assert [office.fail(task_id).returned for _ in range(3)] == [[task_id], [task_id], []]
    record = office.record(task_id)
    assert (record.reason, [one.attempt for one in record.attempts]) == (Reason.RETRY_LIMIT, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("verb", [protocol.RetryDead, protocol.PurgeDead])
def test_a_request_about_dead_letters_whose_answer_was_lost_is_answered_again_and_not_repeated(
    office: Office, verb: Any, by_id: bool
) -> None:
    ids = office.submit(TWICE, TWICE, TWICE)
    office.bury(*ids)
    which = protocol.Dead(ids[:2]) if by_id else protocol.Dead(limit=2)

    def ask(submission: bytes) -> Any:
        message = verb(which, submission)
        office.writer.change(changes.of(message, Admission(), 7, office.answers.append, office.answers.append))
        return office.commit()

    ask(bytes(15) + b"a")
    office.reopen()
    assert ask(bytes(15) + b"a").returned == []
    after = None if by_id else which.after  # who goes on from there finds the others
    assert [answer.count for answer in office.answers] == [2, 2]
    assert office.answers[1].after == after
    assert office.record(ids[2]).status == Status.DEAD_LETTER
    office.answers.clear()
    ask(bytes(15) + b"b")  # asked by somebody else, or anew
    wrong = NotDead if verb is protocol.RetryDead else UnknownTask
    assert isinstance(office.answers[0], wrong) if by_id else office.answers == [protocol.Changed(1)]


def test_a_request_about_dead_letters_that_was_refused_may_succeed_later(office: Office) -> None:
    (task_id,) = office.submit(TWICE)
    message = protocol.RetryDead(protocol.Dead([task_id]), bytes(16))
    for _ in range(2):
        office.writer.change(changes.of(message, Admission(), 7, office.answers.append, office.answers.append))
        office.commit()
        office.bury(task_id)
    assert [type(answer) for answer in office.answers] == [NotDead, protocol.Changed]


@pytest.mark.parametrize("lived_s", [50, 500])
def test_the_time_to_live_of_a_dead_letter_that_is_retried_begins_anew(office: Office, lived_s: float) -> None:
    """Whether it was over while the task was dead or not."""
    spec = replace(PLAIN, ttl_ms=100_000)
    expiries = Expiries(office.writer, Feed(office.store, office.config, office.writer.interruptions))

    def end_what_is_over(after_s: float) -> None:
        office.clock.advance(after_s)
        expiries._feed.look_for_expiries()
        expiries.step(office.clock.now_us())
        office.commit()

    first, second = office.submit(spec, spec)
    office.bury(first, second)
    end_what_is_over(lived_s)
    office.dead(protocol.RetryDead, [first, second])
    end_what_is_over(99)
    assert {office.record(one).status for one in (first, second)} == {Status.PENDING}
    office.cut_off(first, Reason.CRASH)
    end_what_is_over(2)
    assert {office.record(one).status for one in (first, second)} == {Status.EXPIRED}


@pytest.mark.parametrize("ttl_from", [0, 1])
def test_a_dead_letter_that_dies_again_is_not_held_to_any_earlier_time_to_live(office: Office, ttl_from: int) -> None:
    spec = replace(PLAIN, ttl_ms=100_000, ttl_from=ttl_from)
    (task_id,) = office.submit(spec)
    for _ in range(2):
        office.bury(task_id)
        office.clock.advance(60)
        office.dead(protocol.RetryDead, [task_id])
    office.cut_off(task_id, Reason.CRASH)
    assert office.record(task_id).status == Status.PENDING


def test_dead_letters_are_found_by_kind_queue_and_time_and_all_or_none_by_id(office: Office) -> None:
    ids = office.submit(TWICE, replace(TWICE, queue="bulk"), replace(TWICE, kind="mail::send"), TWICE)
    office.bury(*ids[:3])
    office.dead(protocol.RetryDead, [*ids[:3], ids[3]])
    office.dead(protocol.PurgeDead, [ids[0], 99])
    wrong = [NotDead, UnknownTask]
    assert [type(answer) for answer in office.answers] == wrong
    assert str(ids[3]) in str(office.answers[0])
    before_us = office.clock.now_us()
    for which in ({"before_us": before_us}, {"kind": "no::such"}, {"queue": "none"}):
        office.dead(protocol.RetryDead, **which)
    for which in ({"queue": "bulk"}, {"kind": "mail::send"}, {"before_us": before_us + 1}):
        office.dead(protocol.RetryDead, **which)
    assert office.answers[2:] == [protocol.Changed(count) for count in (0, 0, 0, 1, 1, 1)]


def test_a_dead_letter_below_the_mark_becomes_a_straggler_and_survives_reopening(office: Office) -> None:
    old, *others = office.submit(*[LATER] * 5)
    office.bury(old)
    for task_id in others:
        office.complete(task_id)
    with office.store.transaction():
        office.store.set_low_water(others[-1])
    assert (office.store.low_water, active(office.store)) == (others[-1], [])
    office.dead(protocol.RetryDead, [old])
    assert active(office.store) == [old]
    office.reopen()
    assert (active(office.store), office.store.count_active()) == ([old], 1)
    assert office.writer.interruptions == {old: Interruptions(3)}
    office.fail(old)  # it waits, and is no straggler meanwhile
    assert (active(office.store), office.store.count_active()) == ([], 1)
    office.reopen()
    assert (active(office.store), office.store.count_active()) == ([], 1)
    assert office.writer.interruptions == {old: Interruptions(4, 0, 0, 1)}
    office.clock.advance(10)
    office.writer.come_due([old])
    office.commit()
    office.reopen()
    assert (active(office.store), office.store.count_active()) == ([old], 1)
    office.complete(old)
    assert (active(office.store), office.store.count_active()) == ([], 0)


def test_a_retry_that_cannot_be_written_is_refused_and_nothing_changes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task_id,) = office.submit(TWICE)
    office.bury(task_id)
    with monkeypatch.context() as full:
        full.setattr(office.store, "add_statistics", _full)
        assert office.dead(protocol.RetryDead, [task_id]).returned == []
    assert [type(answer) for answer in office.answers] == [StorageFull]
    assert isinstance(office.answers[0], RingqError)
    assert office.record(task_id).status == Status.DEAD_LETTER
    assert office.writer.interruptions == {}


def test_a_purged_dead_letter_leaves_nothing_behind_and_its_id_is_not_given_again(office: Office) -> None:
    *kept, last = office.submit(TWICE, TWICE, TWICE)
    office.bury(last)
    office.writer.keep_output(last, EPOCH + office.leases, b"printed", b"", 0)
    office.commit()
    office.dead(protocol.PurgeDead, [last])
    assert office.answers == [protocol.Changed(1)]
    query = Query(office.config.database)
    assert [one.id for one in query.tasks()] == kept[::-1]
    assert (query.history(), query.statistics()) == ([], [])
    driver = office.store._driver
    for table in ("attempt", "output", "receipt", "lease", "straggler", "delayed"):
        assert driver.execute(f"SELECT COUNT(*) FROM {table} WHERE task_id = ?", (last,)).fetchone() == (0,), table
    office.reopen()
    assert office.submit(TWICE) == [last + 1]


def test_chunks_that_stay_do_not_hide_the_dead_letters_behind_them(office: Office) -> None:
    chunk, *others = office.submit(TWICE, TWICE, TWICE)
    driver = office.store._driver
    with office.store.transaction():
        found = office.store.insert_map("shop::buy", "k", 1)
        office.store.insert_chunks(found, [(0, 1, chunk, bytes(16))])
        driver.execute("UPDATE task SET payload = '[{}]' WHERE id = ?", (chunk,))
    office.bury(chunk, *others)
    for count in (1, 1, 0):
        office.answers.clear()
        office.dead(protocol.PurgeDead, limit=1)
        assert [answer.count for answer in office.answers] == [count]
    assert [one.id for one in Query(office.config.database).tasks()] == [chunk]


def test_what_a_killed_parent_left_of_a_dead_letter_that_was_purged_since_is_not_adopted(office: Office) -> None:
    failed, crashed = office.submit(replace(PLAIN, retry="1"), PLAIN)
    office.fail(failed)
    row = office.row(failed)
    office.writer.record([row])
    office.commit()
    office.bury(crashed)
    running = (crashed, EPOCH + office.leases, 1, 3, 0)
    office.dead(protocol.PurgeDead)
    assert office.answers == [protocol.Changed(2)]
    office.reopen()
    assert office.findings(row, running=(running,)) == ([], [])


def test_what_a_killed_parent_left_of_a_dead_letter_that_was_retried_since_is_not_counted_again(
    office: Office,
) -> None:
    (task_id,) = office.submit(replace(PLAIN, retry="1"))
    office.fail(task_id)
    row = office.row(task_id)
    office.writer.record([row])
    office.commit()
    office.dead(protocol.RetryDead, [task_id])
    office.reopen()
    assert office.findings(row) == ([], [])
    assert office.record(task_id).status == Status.PENDING
