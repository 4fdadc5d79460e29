"""Callbacks in an inline run: what is parked, completed and given up there is what production would show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ringq
from ringq.testing import Inline, inline

app = ringq.App("shop")
given: list[ringq.Callback] = []


@app.task
def pay(ctx: ringq.Context, timeout: float | None = None) -> int:
    given.append(ctx.callback(timeout))
    return 7


@app.task(retry="1 constant 0s")
def patient(ctx: ringq.Context) -> None:
    given.append(ctx.callback(60))


@app.task
def call_twice(ctx: ringq.Context) -> str:
    given.append(ctx.callback())
    given.append(ctx.callback())
    return "memo"


@app.task
def breaks(ctx: ringq.Context) -> None:
    given.append(ctx.callback())
    raise ValueError("no")


@app.task
def parent(ctx: ringq.Context) -> None:
    ctx.spawn(pay.submission())
    ctx.callback()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Inline]:
    given.clear()
    with inline(app, tmp_path) as run:
        yield run


def test_a_parked_task_is_completed_by_the_test(run: Inline) -> None:
    task = pay.submit()
    run.run_all()
    assert run.client.query.callback(task.id).parked
    run.client.complete(given[0], 12, task=pay)
    assert task.result() == 12
    with pytest.raises(ringq.UnknownCallback):
        run.client.complete(given[0], 13)


def test_the_time_of_a_parked_task_is_the_one_of_the_clock(run: Inline) -> None:
    task = patient.submit()
    run.run_all(raises=False)
    run.clock.advance(61)
    run.run_all(raises=False)
    assert [callback.task_id for callback in given] == [task.id, task.id]
    run.clock.advance(61)
    run.run_all(raises=False)
    with pytest.raises(ringq.TaskDead):
        task.result()


def test_of_two_tokens_of_an_attempt_the_second_is_good(run: Inline) -> None:
    task = call_twice.submit()
    run.run_all()
    with pytest.raises(ringq.UnknownCallback):
        run.client.complete(given[0])
    run.client.complete(given[1], "second")
    assert task.result() == "second"


def test_the_token_of_an_attempt_that_failed_is_good_for_nothing(run: Inline) -> None:
    breaks.submit()
    run.run_all(raises=False)
    with pytest.raises(ringq.UnknownCallback):
        run.client.complete(given[0])


def test_a_task_waits_for_children_or_for_a_callback(run: Inline) -> None:
    task = parent.submit()
    run.run_all(raises=False)
    with pytest.raises(ringq.TaskFailed, match="let one of them ask for a callback"):
        task.result()
    assert run.submitted(pay) == []


def test_a_call_of_a_map_cannot_ask(run: Inline) -> None:
    with pytest.raises(ringq.TaskFailed, match="can wait for a callback"):
        list(run.client.map(pay, [1.0, 2.0]))
