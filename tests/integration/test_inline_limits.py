"""Limits in an inline run: they go by its clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ringq
from ringq.testing import Inline, inline

app = ringq.App("slow")
clocks: list[Inline] = []


@app.task(run_timeout=10)
def works(ctx: ringq.Context, seconds: float, step: float = 1) -> str:
    done = 0.0
    while done < seconds:
        clocks[-1].clock.advance(step)
        done += step
    return f"done at attempt {ctx.attempt}"


@app.task(run_timeout=10)
def tidies_up(seconds: float) -> str:
    try:
        clocks[-1].clock.advance(seconds)
    except ringq.RunTimeout as error:
        clocks[-1].clock.advance(1)  # it is told once
        return type(error).__name__
    return "in time"


@app.task(run_timeout=10)
def asks(ctx: ringq.Context, before: float) -> None:
    clocks[-1].clock.jump(before)
    ctx.check_cancelled()


@app.task(run_timeout=10, retry="5 constant 100s")
def fails() -> None:
    raise ValueError("no")


@app.task(retry="5 constant 100s")
def stumbles(seconds: float) -> None:
    try:
        clocks[-1].clock.advance(seconds)
    except ringq.TotalTimeout:
        raise ValueError("in the midst of it") from None


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Inline]:
    with inline(app, tmp_path) as one:
        clocks.append(one)
        yield one
        clocks.pop()


def end_of(run: Inline, task: ringq.Submitted[object]) -> tuple[str, str]:
    record = run.client.query.task(task.id)
    return record.status.value, record.reason.value


def test_a_handler_in_which_its_time_passes_is_told_where_it_passes(run: Inline) -> None:
    short, long = works.submit(seconds=9), works.submit(seconds=20)
    with pytest.raises(ringq.RunTimeout, match="the run time limit is over"):
        run.run_all()
    assert short.result() == "done at attempt 1"
    assert end_of(run, long) == ("failed", "run_timeout")
    assert run.client.query.task(long.id).attempts[0].duration_s == 10


def test_a_timeout_is_retried_as_the_policy_says(run: Inline) -> None:
    task = works.options(retry=1).submit(seconds=20)
    run.run_all(raises=False)
    assert end_of(run, task) == ("dead_letter", "retry_limit")


def test_a_handler_that_was_told_may_end_as_it_likes(run: Inline) -> None:
    assert tidies_up.submit(seconds=5).result() == "in time"
    assert tidies_up.submit(seconds=50).result() == "RunTimeout"
    assert tidies_up.options(total_timeout=7).submit(seconds=8).result() == "TotalTimeout"


def test_a_handler_that_asks_is_told(run: Inline) -> None:
    asks.submit(before=9)
    assert len(run.run_all()) == 1
    late = asks.submit(before=11)
    run.run_all(raises=False)
    assert end_of(run, late) == ("failed", "run_timeout")


def test_each_call_of_a_map_has_the_whole_time(run: Inline) -> None:
    results = list(run.client.map(works, [6, 8, 20, 9], chunk=4, errors="return"))
    assert [type(one) for one in results] == [str, str, ringq.TaskTimedOut, str]


def test_time_that_passes_outside_of_handlers_ends_none(run: Inline) -> None:
    task = works.submit(seconds=1)
    run.clock.advance(100)
    assert task.result() == "done at attempt 1"
    run.clock.advance(100)


def test_the_time_for_the_whole_task_ends_what_runs_for_good(run: Inline) -> None:
    task = works.options(total_timeout=5, retry=5).submit(seconds=20)
    (ended,) = run.run_all(raises=False)
    assert (ended.id, ended.reason, len(ended.attempts)) == (task.id, "total_timeout", 1)
    assert ended.status is ringq.Status.FAILED
    with pytest.raises(ringq.TaskTimedOut):
        task.result()


def test_what_has_not_begun_in_time_expires_and_is_among_those_that_ended(run: Inline) -> None:
    reasons = {}
    for option in ("ttl", "queue_timeout", "total_timeout"):
        reasons[works.options(**{option: 5}).submit(seconds=1).id] = option  # type: ignore[arg-type]
    every = works.options(ttl=5, queue_timeout=5, total_timeout=5, run_after=4).submit(seconds=0)
    run.clock.advance(5)
    ended = {record.id: (record.status.value, record.reason.value) for record in run.run_all()}
    expected = {task_id: ("expired", option) for task_id, option in reasons.items()}
    assert {task_id: end for task_id, end in ended.items() if task_id != every.id} == expected
    assert ended[every.id] == ("expired", "total_timeout")  # the broader one, where two are over at once


def test_who_waits_for_what_expires_is_told_of_it(run: Inline) -> None:
    task = works.options(ttl=5).submit(seconds=1)
    run.clock.advance(5)
    with pytest.raises(ringq.TaskFailed, match="expired"):
        task.result()


def test_the_wait_for_a_worker_begins_when_the_task_is_due_and_anew_for_each_retry(run: Inline) -> None:
    task = fails.options(queue_timeout=50, run_after=1000).submit()
    for seconds in (1000, 100, 100, 149):
        run.clock.advance(seconds)
        run.run_all(raises=False)
    assert len(run.client.query.task(task.id).attempts) == 4
    run.clock.advance(150)
    run.run_all()
    assert end_of(run, task) == ("expired", "queue_timeout")


def test_limits_of_a_dead_letter_begin_anew_when_it_gets_another_chance(run: Inline) -> None:
    limits = {"ttl": 300, "queue_timeout": 50, "total_timeout": 400}
    task = fails.options(retry="1 constant 100s", **limits).submit()  # type: ignore[arg-type]
    for _ in range(2):
        run.run_all(raises=False)
        run.clock.advance(100)
        run.run_all(raises=False)
        assert end_of(run, task) == ("dead_letter", "retry_limit")
        run.clock.advance(1000)
        run.client.retry_dead(task)
    run.clock.advance(50)
    run.run_all()
    assert end_of(run, task) == ("expired", "queue_timeout")


def test_who_answers_the_end_of_all_time_with_an_error_of_its_own_is_not_tried_again(run: Inline) -> None:
    task = stumbles.options(total_timeout=5).submit(seconds=8)
    (ended,) = run.run_all(raises=False)
    assert (ended.id, ended.status.value, ended.reason.value) == (task.id, "expired", "total_timeout")
    assert [attempt.reason.value for attempt in ended.attempts] == ["handler_error"]
    run.clock.advance(1000)
    assert run.run_all() == run.pending() == []
