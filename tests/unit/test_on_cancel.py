"""What a task does when it was cancelled, as it is declared."""

from __future__ import annotations

import json

import pytest

import ringq

app = ringq.App("stop")


@app.task
def crawl(url: str, depth: int = 1) -> str:
    return url


@crawl.on_cancel
def forget(ctx: ringq.Context, url: str, depth: int = 1) -> None:
    seen.append((ctx.task_id, url, depth))


@app.task
def other(url: str) -> str:
    return url


seen: list[tuple[int, str, int]] = []


def test_it_gets_the_arguments_of_the_call_and_a_context_if_it_wants_one() -> None:
    seen.clear()
    crawl.answer_cancel(ringq.Context(7, kind=crawl.kind), json.dumps({"url": "x"}).encode())
    assert seen == [(7, "x", 1)]


def test_the_function_stays_what_it_was() -> None:
    seen.clear()
    forget(ringq.Context(), "y", 2)
    assert seen == [(0, "y", 2)]


def test_there_is_one() -> None:
    with pytest.raises(ringq.InvalidKind, match=r"stop::crawl: on_cancel was given .*test_on_cancel.py:\d+ already"):
        crawl.on_cancel(lambda url, depth=1: None)


def test_it_takes_what_the_handler_takes() -> None:
    def wrong(path: str) -> None:
        pass

    with pytest.raises(ringq.InvalidKind, match="with the handler's parameters"):
        other.on_cancel(wrong)
    assert other.cancel_hook is None
