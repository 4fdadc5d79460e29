"""Questions to the database, while somebody writes and while nobody does."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from store_rows import NOW, attempt, end, opened, receipt, spawn, submit

from ringq.clock import ManualClock
from ringq.errors import InvalidOption, NotADatabase, StoreError, UnknownTask
from ringq.model import PauseReason, Reason, Status, TaskRecord
from ringq.overview import KindStatistics
from ringq.query import LIMIT_MAX, Query
from ringq.store import Store
from ringq.store.engine import driver, open_reader
from ringq.store.failures import store_error
from ringq.store.questions import asking
from ringq.store.schedules import ScheduleRow

START = datetime(2027, 1, 15, 8, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Tasks 1-10 of media::thumbnail, of which 1-4 ended; 11-12 of mail::send; 13 is delayed by a minute."""
    with opened(tmp_path / "a.db") as store:
        submit(store, 10)
        submit(store, 2, spec=2)
        submit(store, 1, run_at_us=NOW + 60_000_000)
        with store.transaction():
            store.insert_receipts(
                [
                    receipt(1),
                    receipt(2),
                    receipt(3, status=Status.FAILED, reason=Reason.HANDLER_ERROR),
                    receipt(4, 9 << 32, status=Status.DEAD_LETTER, reason=Reason.CRASH_LIMIT),
                ]
            )
            store.insert_attempts([attempt(4, 7 << 32), attempt(4, 8 << 32), attempt(5, 7 << 32, Reason.LOST)])
            store.insert_leases([(6, 5, 1, 1, 1, NOW + 500)])
            store.add_statistics({(1, 10): (2, 500, 250), (1, 11): (1, 250, 250), (1, 12): (1, 250, 250)})
        yield store


@pytest.fixture
def query(store: Store) -> Query:
    return Query(store.path, clock=ManualClock(NOW))


def ids(records: list[TaskRecord]) -> list[int]:
    return [record.id for record in records]


def test_a_completed_task_is_told_in_full(query: Query) -> None:
    record = query.task(1)
    assert record == TaskRecord(
        id=1, kind="media::thumbnail", queue="default", group=None, priority=128, status=Status.COMPLETED,
        reason=Reason.NONE, payload='{"n":1}', run_timeout_s=None, retry=None, attempt_count=1,
        submitted_at=START + timedelta(microseconds=1), run_at=None,
        started_at=START + timedelta(microseconds=750), ended_at=START + timedelta(microseconds=1000),
        result='{"n":1}', error=None, label="media::thumbnail", tags={}, key=None, ttl_s=None, schedule=None,
        serial_key=None, attempts=record.attempts,
    )  # fmt: skip
    (only,) = record.attempts
    assert (only.kind, only.status, only.lease, only.cpu_s, only.rss_kib) == (
        "media::thumbnail", Status.COMPLETED, 1 << 32, 1e-4, 30_000,
    )  # fmt: skip
    assert only.duration_s == 250e-6


def test_a_task_is_told_with_its_group_and_limit_and_a_delayed_one_with_its_time(query: Query) -> None:
    record = query.task(11)
    assert (record.group, record.queue, record.priority, record.run_timeout_s) == ("customer", "bulk", 64, 2.5)
    delayed = query.task(13)
    assert (delayed.status, delayed.run_at) == (Status.PENDING, START + timedelta(minutes=1))


def test_a_task_is_told_with_its_key_its_time_to_live_and_the_schedule_that_made_it(store: Store, query: Query) -> None:
    with store.transaction():
        spec = store.intern_spec("media::thumbnail", "default", 128, None, None, None, 1_500)
        store.insert_tasks([(14, spec, NOW, None, "{}"), (15, spec, NOW, None, "{}")])
        store.next_task_id = 16
        store.insert_keys([(14, 1, bytes(16), "a.jpg")], [])
        values = dict.fromkeys(ScheduleRow._fields, 0) | {"id": None, "name": "nightly", "cron": "0 3 * * *"}
        texts = {"kind": "media::thumbnail", "options": "{}", "payload": "{}", "zone": "UTC"}
        store.save_schedule(ScheduleRow(**values | texts | {"every_us": None, "occurrences_max": None}))  # type: ignore[arg-type]
        store.insert_scheduled([(14, 1, NOW, 1)])
    known = [(one.key, one.ttl_s, one.schedule) for one in query.tasks(limit=3)]
    assert known == [(None, 1.5, None), ("a.jpg", 1.5, "nightly"), (None, None, None)]
    assert query.task(14).schedule == "nightly"
    with store.transaction():
        store.delete_schedule(1)
    assert (query.task(14).key, query.task(14).schedule) == ("a.jpg", None)


def test_the_run_time_stays_readable_after_the_task_came_due_and_ended(store: Store, query: Query) -> None:
    with store.transaction():
        store.delete_delayed([13])
        store.insert_receipts([receipt(13)])
    assert query.task(13).run_at == START + timedelta(minutes=1)


def test_attempts_are_told_in_the_order_of_their_leases(query: Query) -> None:
    record = query.task(4)
    assert (record.status, record.reason) == (Status.DEAD_LETTER, Reason.CRASH_LIMIT)
    assert [(a.status, a.reason, a.lease >> 32) for a in record.attempts] == [
        (None, Reason.CRASH, 7),
        (None, Reason.CRASH, 8),
        (Status.DEAD_LETTER, Reason.CRASH_LIMIT, 9),
    ]
    assert record.error == {"type": "ValueError", "message": "no"}
    assert [a.reason for a in query.task(5).attempts] == [Reason.LOST]


def test_a_lease_row_means_running(query: Query) -> None:
    record = query.task(6)
    assert (record.status, record.started_at) == (Status.RUNNING, START + timedelta(microseconds=500))


@pytest.mark.parametrize("task_id", [0, -1, 14, 2**63, -(2**70)])
def test_an_unknown_task_is_an_error_that_names_it(query: Query, task_id: int) -> None:
    with pytest.raises(UnknownTask, match=str(task_id)):
        query.task(task_id)


def test_an_error_that_is_no_json_object_is_told_as_it_is(store: Store, query: Query) -> None:
    row = (*receipt(7, status=Status.FAILED)[:-1], "no [json")
    end(store, row)
    assert query.task(7).error == {"message": "no [json"}


def test_tasks_come_newest_first_and_are_filtered(query: Query) -> None:
    assert ids(query.tasks()) == list(range(13, 0, -1))
    assert ids(query.tasks(kind="mail::send")) == ids(query.tasks(queue="bulk")) == [12, 11]
    assert ids(query.tasks(kind="mail::send", queue="default")) == []
    assert ids(query.tasks(status="completed")) == [2, 1]
    assert ids(query.tasks(status=Status.FAILED)) == [3]
    assert ids(query.tasks(status=Status.DEAD_LETTER, kind="media::thumbnail")) == [4]
    assert ids(query.tasks(status=Status.RUNNING)) == [6]
    assert ids(query.tasks(status=Status.PAUSED)) == []
    assert ids(query.tasks(status="pending", kind="media::thumbnail")) == [13, 10, 9, 8, 7, 5]
    assert {record.status for record in query.tasks(status="pending")} == {Status.PENDING}


def test_pending_tasks_are_found_on_both_sides_of_the_mark(store: Store, query: Query) -> None:
    end(store, *(receipt(i) for i in range(6, 12)))
    with store.transaction():
        assert store.set_low_water(13, stragglers=[5, 12]) == 13
    submit(store, 2)
    assert ids(query.tasks(status="pending")) == [15, 14, 13, 12, 5]
    counts = query.counts()
    assert (counts[Status.PENDING], counts[Status.RUNNING]) == (5, 0)  # 6 has ended; its lease row goes next


@pytest.mark.parametrize("filters", [{}, {"status": "pending"}, {"status": "completed"}, {"queue": "default"}])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_pages_of_tasks_join_without_gap_or_overlap(store: Store, query: Query, filters: Any, limit: int) -> None:
    with store.transaction():
        store.set_low_water(13, stragglers=[5, 7])
    whole = ids(query.tasks(**filters))
    joined: list[int] = []
    while page := query.tasks(**filters, limit=limit, after=joined[-1] if joined else None):
        assert len(page) <= limit
        joined += ids(page)
    assert joined == whole


def test_history_comes_last_ended_first_and_is_filtered(store: Store, query: Query) -> None:
    assert [record.task_id for record in query.history()] == [4, 3, 2, 1]
    assert [record.task_id for record in query.history(status="completed")] == [2, 1]
    assert [record.task_id for record in query.history(status="failed")] == [3]
    assert [record.task_id for record in query.history(status="expired")] == []
    end(store, receipt(11, kind=2, status=Status.FAILED, reason=Reason.RUN_TIMEOUT, ended_us=NOW - 5))
    assert [record.task_id for record in query.history(kind="mail::send")] == [11]
    assert [record.task_id for record in query.history(status="failed")] == [3, 11]
    assert [record.task_id for record in query.history(kind="mail::send", status="failed")] == [11]
    assert query.history(kind="mail::send", status="completed") == []
    assert query.history(kind="mail::send")[0].reason is Reason.RUN_TIMEOUT


@pytest.mark.parametrize("filters", [{}, {"kind": "media::thumbnail"}, {"status": "completed"}, {"status": "failed"}])
def test_pages_of_history_join_also_where_many_ended_at_once(store: Store, query: Query, filters: Any) -> None:
    submit(store, 40)
    rows = [receipt(i, status=(Status.COMPLETED, Status.FAILED)[i % 2], ended_us=NOW + i // 10) for i in range(14, 54)]
    end(store, *rows)
    whole = query.history(**filters)
    assert len(whole) >= 20
    assert whole == sorted(whole, key=lambda record: (record.ended_at, record.task_id), reverse=True)
    joined = query.history(**filters, limit=3)
    while page := query.history(**filters, limit=3, before=joined[-1]):
        joined += page
    assert joined == whole


def test_what_has_not_begun_is_paused_while_its_queue_is(store: Store, query: Query) -> None:
    with store.transaction():
        store.pause("queue", "default", NOW)
    assert (query.task(5).status, query.task(5).pause_reasons) == (Status.PAUSED, PauseReason.QUEUE)
    for task_id, status in ((1, Status.COMPLETED), (6, Status.RUNNING), (11, Status.PENDING)):
        assert (query.task(task_id).status, query.task(task_id).pause_reasons) == (status, PauseReason(0))
    assert ids(query.tasks(status="paused")) == [13, 10, 9, 8, 7, 5]  # also what waits for its time
    assert ids(query.tasks(status="paused", limit=2, after=9)) == [8, 7]
    assert ids(query.tasks(status="pending")) == [12, 11]
    assert ids(query.tasks(status="running")) == [6]
    assert {one.id: one.status for one in query.tasks(queue="bulk")} == {11: Status.PENDING, 12: Status.PENDING}
    counts = query.counts()
    assert (counts[Status.PENDING], counts[Status.PAUSED], counts[Status.RUNNING]) == (2, 6, 1)
    rows = store._driver.execute("SELECT id, status FROM task_v WHERE id IN (1, 5, 6, 11)")
    assert dict(rows) == {1: "completed", 5: "paused", 6: "running", 11: "pending"}
    with store.transaction():
        store.resume("queue", "default", NOW + 1)
    assert (query.task(5).status, query.task(5).pause_reasons) == (Status.PENDING, PauseReason(0))
    assert query.tasks(status="paused") == []
    assert Status.PAUSED not in query.counts()


def test_paused_tasks_are_found_on_both_sides_of_the_mark(store: Store, query: Query) -> None:
    with store.transaction():
        store.set_low_water(12, range(1, 13))
        store.pause("queue", "default", NOW)
    assert store.low_water == 12
    assert ids(query.tasks(status="paused")) == [13, 10, 9, 8, 7, 5]
    assert query.counts()[Status.PAUSED] == 6


def test_statistics_and_counts(query: Query) -> None:
    assert query.statistics("media::thumbnail") == query.statistics()
    assert query.statistics()[0] == KindStatistics("media::thumbnail", Status.COMPLETED, 2, 500e-6, 250e-6)
    assert query.statistics("media::thumb") == []
    assert query.counts() == {
        Status.PENDING: 8, Status.RUNNING: 1, Status.COMPLETED: 2, Status.FAILED: 1, Status.DEAD_LETTER: 1,
    }  # fmt: skip
    assert query.delayed() == 1
    assert Query(query._path, clock=ManualClock(NOW + 60_000_000)).delayed() == 0
    assert query.kinds() == ["mail::send", "media::thumbnail"]


@pytest.mark.parametrize("name", ["%", "_", "mail::%", "mail__send", "'", "' OR 1=1 --", "", "\x00", "\ud800", "ü"])
def test_a_name_means_itself(store: Store, query: Query, name: str) -> None:
    assert query.tasks(kind=name) == query.tasks(queue=name) == query.history(kind=name) == query.statistics(name) == []
    if name and name.isprintable():
        submit(store, 1, spec=store.intern_spec(name, name, 5, None, None))
        assert [record.kind for record in query.tasks(kind=name, queue=name)] == [name]


@pytest.mark.parametrize("limit", [0, -1, LIMIT_MAX + 1])
def test_a_limit_is_bounded(query: Query, limit: int) -> None:
    for ask in (query.tasks, query.history):
        with pytest.raises(InvalidOption, match="limit: expected 1 to 10000"):
            ask(limit=limit)
    assert len(query.tasks(limit=LIMIT_MAX)) == 13


def test_a_status_that_does_not_exist_is_refused_with_those_that_do(query: Query) -> None:
    for ask in (query.tasks, query.history):
        with pytest.raises(InvalidOption, match=r"pending.*dead_letter.*'finished'"):
            ask(status="finished")
    with pytest.raises(InvalidOption, match="after"):
        query.tasks(after=0)


@pytest.mark.parametrize(
    ("method", "arguments", "says"),
    [
        ("task", {"task_id": "1"}, "task_id: expected a whole number, got '1'"),
        ("output", {"task_id": None}, "task_id: expected a whole number, got None"),
        ("tasks", {"status": 10}, "status: expected one of .*, got 10"),
        ("tasks", {"kind": 5}, "kind: expected domain::name, .*, got 5"),
        ("tasks", {"queue": b"bulk"}, "queue: expected the name of a queue, got b'bulk'"),
        ("tasks", {"after": 2.5}, "after: expected a whole number, got 2.5"),
        ("tasks", {"limit": "x"}, "limit: expected a whole number, got 'x'"),
        ("history", {"limit": True}, "limit: expected a whole number, got True"),
        ("history", {"before": 7}, "before: expected the last record of the page before, got 7"),
        ("statistics", {"kind": ["media::thumbnail"]}, "kind: expected domain::name, .*"),
        ("calls", {"task_ids": ["x"]}, "task_ids: expected a whole number, got 'x'"),
        ("calls", {"task_ids": range(LIMIT_MAX + 1)}, "number of task_ids: expected 0 to 10000, got 10001"),
    ],
)
def test_an_argument_of_another_type_is_one_clear_line(
    query: Query, method: str, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        getattr(query, method)(**arguments)
    assert re.fullmatch(says, str(caught.value))


def test_calls_are_counted_for_tasks_that_carry_some(store: Store, query: Query) -> None:
    with store.transaction():
        carrying = [
            (20, 1, NOW, None, "[[1],[2],[3]]"),
            (21, 1, NOW, None, "[[1]]"),
            (22, 1, NOW, None, '[[1],{"n":2}]'),
            (23, 1, NOW, None, "[[1],[2],[3],[4]]"),
        ]
        store.insert_tasks(carrying)
        account = '{"us":5,"results":[1],"errors":{"1":{"reason":"handler_error","error":{}},"2":{"error":{}}}}'
        split = '{"type":"Split","us":5,"results":[1],"errors":{"1":{"error":{}}},"parts":[[24,2,2]]}'
        store.insert_receipts(
            [
                (*receipt(20)[:11], account, None),
                (*receipt(21, status=Status.FAILED, reason=Reason.HANDLER_ERROR)[:11], None, "no JSON at all"),
                (*receipt(23, status=Status.SUPERSEDED, reason=Reason.SPLIT)[:11], None, split),
            ]
        )
    assert query.calls(range(1, 100)) == {20: (3, 2), 21: (1, 0), 22: (2, 0), 23: (4, 1)}
    assert query.calls([]) == {}


def test_a_missing_database_is_one_clear_line_and_stays_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no\.db: there is no such database"):
        Query(tmp_path / "no.db").counts()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty.db").touch()
    with pytest.raises(NotADatabase, match=r"empty\.db"):
        Query(tmp_path / "empty.db").counts()


def test_it_answers_while_nobody_has_the_database_open_and_after_a_killed_writer(tmp_path: Path) -> None:
    opened(tmp_path / "a.db").close()
    assert Query(tmp_path / "a.db").counts()[Status.PENDING] == 0
    code = """
from store_rows import *
store = opened(Path(sys.argv[1]))
submit(store, 9)
os.kill(os.getpid(), signal.SIGKILL)
"""
    spawn(code, tmp_path / "a.db").communicate(timeout=60)
    assert (tmp_path / "a.db-wal").stat().st_size > 0
    assert Query(tmp_path / "a.db").counts()[Status.PENDING] == 9


def test_it_sees_each_commit_and_never_half_of_one(store: Store, query: Query) -> None:
    with store.transaction():
        submit(store, 5)
        assert query.counts()[Status.PENDING] == 8
    assert query.counts()[Status.PENDING] == 13


def test_the_questions_of_one_moment_see_one_state(store: Store) -> None:
    with asking(store.path) as ask:
        before = ask.counts()
        submit(store, 5)
        end(store, receipt(7))
        assert ask.counts() == before
    with asking(store.path) as ask:
        assert ask.counts()[0] == before[0] + 4


def test_it_may_be_used_by_many_threads_and_in_a_forked_child(store: Store, query: Query) -> None:
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(len(query.tasks()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [13] * 8
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(len(query.tasks())))
    child.start()
    child.join()
    assert child.exitcode == 13


def test_a_reader_cannot_write_and_does_not_checkpoint(store: Store) -> None:
    connection = open_reader(store.path)
    with pytest.raises(Exception, match=r"readonly|query_only"):
        driver(connection).execute("DELETE FROM task")
    size = store.path.stat().st_size
    connection.close()
    assert store.path.stat().st_size == size


def test_an_answer_that_takes_too_long_is_given_up_in_words(store: Store) -> None:
    connection = open_reader(store.path, seconds=0.05)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(Exception, match="interrupted") as caught:
        driver(connection).execute(endless)
    connection.close()
    assert "took too long" in str(store_error(caught.value, store.path))
