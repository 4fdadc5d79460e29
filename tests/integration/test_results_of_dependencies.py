"""Tasks that take each other's results, from the submission to the handler, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq.model import Reason, Status
from ringq.testing import inline
from ringq.testing.submitted import listing

app = ringq.App("media")


@app.task
def load(path: str) -> int:
    if path == "bad":
        raise ValueError("no picture")
    return len(path)


@app.task(key=ringq.PAYLOAD)
def load_once(path: str) -> int:
    return len(path)


@app.task
def double(size: int) -> int:
    return 2 * size


@app.task
def total(sizes: list[int | None], *, base: int = 0) -> int:
    return base + sum(size or 0 for size in sizes)


@app.task
def sizes(ctx: ringq.Context, first: int, **others: int) -> dict[str, int]:
    return {"first": first, **others, "attempt": ctx.attempt}


@app.task(retry="1 constant 0s")
def second_time(ctx: ringq.Context, size: int) -> int:
    if ctx.attempt == 1:
        raise ValueError("once more")
    return size


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    with inline(app, tmp_path) as run:
        yield run.client


def results(client: Any, batch: list[ringq.Submission[Any]]) -> list[Any]:
    return [handle.result() for handle in client.submit_many(batch)]


def test_a_diamond_hands_its_results_down(client: Any) -> None:
    first = load.submission("abc")
    left, right = double.submission(ringq.result_of(first)), double.options(priority=1).submission(5)
    last = total.submission([ringq.result_of(left), 100, ringq.result_of(right)], base=1000)
    assert results(client, [last, right, left, first]) == [1116, 10, 6, 3]


def test_a_result_of_a_stored_task_is_taken_whether_or_not_it_has_ended(client: Any) -> None:
    stored = load.submit("abc")
    assert double.submit(ringq.result_of(stored)).result() == 6
    assert stored.wait().status is Status.COMPLETED
    assert double.submit(ringq.result_of(stored)).result() == 6


def test_arguments_by_name_and_others_may_be_results(client: Any) -> None:
    first = load.submission("abc")
    batch = [first, sizes.submission(first=1, more=ringq.result_of(first))]
    assert results(client, batch)[-1] == {"first": 1, "more": 3, "attempt": 1}
    by_text = ringq.Submission("media::double", {"size": ringq.result_of(first)})
    assert results(client, [first, by_text])[-1] == 6


def test_the_next_attempt_takes_the_same_results(client: Any) -> None:
    assert results(client, ringq.chain(load.submission("abc"), second_time.submission)) == [3, 3]


def test_duplicates_of_one_key_are_one_dependency_with_one_result(client: Any) -> None:
    parts = [load_once.submission("a"), load.submission("bbb"), load_once.submission("a"), load.submission("cc")]
    *handles, last = client.submit_many(ringq.gather(parts, then=total.submission))
    assert handles[0].id == handles[2].id
    assert last.result() == 1 + 3 + 1 + 2
    assert client.query.task(last.id).dependencies == tuple(handles[place].id for place in (0, 1, 3))


def test_what_did_not_complete_is_none_for_who_ignores_that(client: Any) -> None:
    lenient = total.options(on_dependency_failure="ignore")
    batch = ringq.gather([load.submission("abc"), load.submission("bad")], then=lenient.submission)
    assert client.submit_many(batch)[-1].result() == 3


def test_a_result_that_does_not_fit_is_told_by_the_argument(client: Any) -> None:
    batch = [first := sizes.submission(1), double.submission(ringq.result_of(first))]  # type: ignore[arg-type]
    ended = client.submit_many(batch)[-1].wait()
    assert (ended.status, ended.reason) == (Status.FAILED, Reason.INVALID_PAYLOAD)
    assert "media::double: size: expected int, got object" in ended.error["message"]


def test_a_hundred_links_are_taken_one_after_the_other(client: Any) -> None:
    batch = ringq.chain(load.submission("a"), *[lambda size: total.submission([size], base=1)] * 100)
    assert client.submit_many(batch)[-1].result() == 101


def test_a_test_that_looks_for_a_task_is_shown_which_results_others_take(client: Any) -> None:
    first = client.submit_many([load.submission("abc")])[0]
    double.submit(ringq.result_of(first))
    total.submit([5, ringq.result_of(first)], base=1)
    told = listing(client.query.tasks())
    assert "media::double(size=result_of(0)), blocked" in told
    assert "media::total(sizes=[5, result_of(0)], base=1), blocked" in told
