"""Schedules whose tasks depend on others: each occurrence asks again how these have ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_schedules import MINUTE_US, Desk, every

import ringq
from ringq.errors import InvalidDependency, InvalidOption, InvalidSubmission
from ringq.kinds.schedules import schedule_fields
from ringq.model import OnDependencyFailure, Status
from ringq.query import Query

IGNORE = OnDependencyFailure.IGNORE.code
app = ringq.App("a")


@app.task(name="b")
def work(number: int = 0) -> int:
    return number


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "t.db")
    desk.put("first", occurrences_max=1)  # makes task 1
    yield desk
    desk.store.close()


def test_each_occurrence_depends_again(desk: Desk) -> None:
    desk.put(depends_on=(1,), skip_if_running=False)
    desk.after(60)
    query = Query(desk.database)
    assert [(query.task(one).status, query.task(one).dependencies) for one in (2, 3)] == [(Status.BLOCKED, (1,))] * 2
    desk.end(1)
    assert query.task(2).status is query.task(3).status is Status.PENDING
    desk.after(60)
    assert (query.task(4).status, query.task(4).dependencies) == (Status.PENDING, (1,))


def test_what_a_schedule_depends_on_is_told_and_stays_over_a_restart(desk: Desk) -> None:
    desk.put(depends_on=(1,), on_dependency_failure=IGNORE, delay_us=MINUTE_US)
    assert desk.seen().options == {"depends_on": [1], "on_dependency_failure": "ignore"}
    desk.restart(61)
    desk.turn()
    assert Query(desk.database).task(2).status is Status.BLOCKED


def test_a_dependency_that_failed_lets_no_task_be_made_and_says_so(desk: Desk) -> None:
    desk.put(depends_on=(1,), delay_us=MINUTE_US)
    desk.put("all_the_same", depends_on=(1,), on_dependency_failure=IGNORE, delay_us=MINUTE_US)
    desk.end(1, Status.FAILED)
    assert desk.after(60) == [2]
    assert Query(desk.database).task(2).schedule == "all_the_same"
    assert "depends on task 1, which has ended as failed" in str(desk.seen().error)
    assert "depends on task 1" in desk.said[0]


def test_a_schedule_cannot_depend_on_a_task_that_there_is_not(desk: Desk) -> None:
    with pytest.raises(InvalidDependency, match="schedule 's' depends on task 77, and there is no such task"):
        desk.put(depends_on=(77,))
    with pytest.raises(InvalidSubmission, match="on_dependency_failure: there is no code 9"):
        desk.put(depends_on=(1,), on_dependency_failure=9)
    assert [row.name for row in desk.store.schedules()] == ["first"]


def test_code_may_name_tasks_that_were_forgotten(desk: Desk) -> None:
    assert desk.declare(every(depends_on=(77,))) == []
    assert "there is no such task" in str(desk.seen().error)


def test_a_schedule_takes_handles_and_results_of_stored_tasks_only() -> None:
    given = schedule_fields("s", work, {"number": ringq.result_of(_handle(5))}, {"depends_on": [_handle(3)]}, every=60)
    assert (given.depends_on, given.payload) == ((3, 5), '{"":{"number":1}}')
    with pytest.raises(InvalidOption, match="a schedule of a::b depends on tasks that are stored, got Submission"):
        schedule_fields("s", work, {}, {"depends_on": work.submission()}, every=60)


def _handle(task_id: int) -> ringq.Submitted[int]:
    return ringq.Submitted(task_id, "a::b", None)  # type: ignore[arg-type]
