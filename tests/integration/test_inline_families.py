"""Tasks that belong together in an inline run: children, finalize, follow-ups, dependencies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq import testing
from ringq.model import Status

app = ringq.App("album")
finalized: list[Any] = []


@app.task
def thumbnail(path: str) -> int:
    if path.endswith(".txt"):
        raise ValueError(f"{path} is no picture")
    return len(path)


@app.task
def announce(title: str) -> None: ...


@app.task
def album(ctx: ringq.Context, title: str, paths: list[str]) -> Any:
    ctx.spawn_many(thumbnail.submission(path) for path in paths)
    return {"title": title}


@album.finalize
def bind(ctx: ringq.Context, memo: dict[str, str], results: list[int]) -> str:
    finalized.append((ctx.task_id, ctx.attempt))
    ctx.follow_up(announce.submission(memo["title"]))
    return f"{memo['title']}: {results}"


@app.task(fail_fast=False)
def patient(ctx: ringq.Context, paths: list[str]) -> Any:
    ctx.spawn_many(thumbnail.submission(path) for path in paths)


@patient.finalize
def what_there_is(ctx: ringq.Context, memo: None, results: list[int | None]) -> list[Any]:
    return [results, [str(child.status) for child in ctx.children()]]


@app.task
def crawl(ctx: ringq.Context, depth: int) -> int:
    if depth == 2:
        ctx.spawn(crawl.submission(1))
    if depth == 1:
        ctx.spawn_sibling(crawl.submission(0))
    return ctx.parent_id or 0


@app.task(retry="1 constant 1s")
def at_once(ctx: ringq.Context, failures: int) -> list[Any]:
    child = ctx.spawn(thumbnail.submission("a"), at_once=True)
    if ctx.attempt <= failures:
        raise ValueError("after that")
    return [ctx.attempt, child.id]


@app.task
def add(ctx: ringq.Context, numbers: list[int]) -> list[Any]:
    return [sum(numbers), ctx.results(int), ctx.result_of(1)]


@app.task(retry="2 constant 1s")
def stubborn(ctx: ringq.Context) -> int:
    ctx.spawn(thumbnail.submission("a"))
    return 5


@stubborn.finalize
def at_last(ctx: ringq.Context, memo: int, results: list[int]) -> int:
    finalized.append((ctx.attempt, memo, results))
    if len(finalized) < 2:
        raise OSError("not yet")
    return memo + results[0]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[testing.Inline]:
    finalized.clear()
    with testing.inline(app, tmp_path) as run:
        yield run


def ends(records: list[ringq.TaskRecord]) -> list[tuple[str, str]]:
    return [(record.kind.partition("::")[2], str(record.status)) for record in records]


def test_children_run_then_finalize_then_what_follows(run: testing.Inline) -> None:
    handle = album.submit("Rome", ["ab", "c"])
    records = run.run_all()
    assert ends(records) == [
        ("thumbnail", "completed"), ("thumbnail", "completed"), ("album", "completed"), ("announce", "completed")
    ]  # fmt: skip
    assert handle.result() == "Rome: [2, 1]"
    assert finalized == [(handle.id, 2)]
    run.assert_submitted(announce, title="Rome")


def test_waiting_for_the_parent_runs_its_children(run: testing.Inline) -> None:
    assert album.submit("Rome", ["ab"]).result() == "Rome: [2]"


def test_no_children_are_finalized_at_once(run: testing.Inline) -> None:
    assert album.submit("Nowhere", []).result() == "Nowhere: []"


def test_a_child_that_fails_ends_its_parent_and_the_others(run: testing.Inline) -> None:
    handle = album.submit("Rome", ["a.txt", "b"])
    assert ends(run.run_all(raises=False)) == [("thumbnail", "failed"), ("album", "failed"), ("thumbnail", "cancelled")]
    with pytest.raises(ringq.TaskFailed, match="has not completed"):
        handle.result()
    assert finalized == []


def test_a_patient_parent_is_told_who_failed(run: testing.Inline) -> None:
    assert patient.submit(["a.txt", "b"]).result() == [[None, 1], ["failed", "completed"]]


def test_a_parent_without_finalize_ends_with_its_last_child_and_siblings_are_children(run: testing.Inline) -> None:
    handle = crawl.submit(2)
    (child, sibling, parent) = run.run_all()
    assert [child.result, sibling.result, parent.id, parent.result] == [str(handle.id)] * 2 + [handle.id, "0"]


def test_children_at_once_stay_though_the_attempt_fails_and_the_parent_waits_for_them_too(run: testing.Inline) -> None:
    handle = at_once.submit(failures=1)
    run.run_next()
    run.clock.advance(2)
    run.run_all()
    assert handle.result() == [2, 3]
    assert [record.status for record in run.submitted(thumbnail)] == [Status.COMPLETED] * 2


def test_children_at_once_are_cancelled_with_a_parent_that_has_failed(run: testing.Inline) -> None:
    at_once.submit(failures=2)
    run.run_next()
    run.clock.advance(2)
    assert ends(run.run_all(raises=False)) == [("at_once", "dead_letter"), *[("thumbnail", "cancelled")] * 2]


def test_results_of_dependencies_are_arguments_and_can_be_asked_for(run: testing.Inline) -> None:
    first, second = thumbnail.submit("ab"), thumbnail.submit("c")
    total = add.options(depends_on=[first, second]).submit([ringq.result_of(first), 40])
    assert total.result() == [42, [2, 1], 1]


def test_a_finalize_that_fails_is_tried_again_and_the_handler_is_not(run: testing.Inline) -> None:
    handle = stubborn.submit()
    run.run_all()
    run.clock.advance(2)
    run.run_all()
    assert handle.result() == 6
    assert [one[1:] for one in finalized] == [(5, [1])] * 2
    assert len(run.submitted(thumbnail)) == 1


def test_a_cancel_of_a_parent_that_waits_cancels_its_children(run: testing.Inline) -> None:
    handle = album.submit("Rome", ["ab", "c"])
    run.run_next()
    assert run.client.query.task(handle.id).status is Status.WAITING
    handle.cancel()
    assert run.run_all() == []
    assert [record.status for record in run.submitted()] == [Status.CANCELLED] * 3


def test_children_have_what_is_left_of_the_time_of_their_parent(run: testing.Inline) -> None:
    handle = album.options(ttl=60).submit("Rome", ["ab"])
    run.run_next()
    run.clock.advance(61)
    run.run_all(raises=False)
    assert run.submitted(thumbnail)[0].status is Status.EXPIRED
    assert run.client.query.task(handle.id).status.is_terminal


def test_what_depends_on_a_failure_ends_with_it_and_what_follows_in_turn(run: testing.Inline) -> None:
    first = thumbnail.submit("a.txt")
    second = add.options(depends_on=first).submit([1])
    third = add.options(depends_on=second).submit([1])
    assert [str(record.status) for record in run.run_all(raises=False)] == ["failed", *["dependency_failed"] * 2]
    with pytest.raises(ringq.TaskFailed, match="depends on a task that failed"):
        third.result()
