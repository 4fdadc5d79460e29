"""Functions of an app that are called when something has happened: how they are declared, and which are called."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import ringq
from ringq.hooks import call

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def event(word: str, **fields: Any) -> ringq.Event:
    return ringq.Event(word=word, at=NOW, **fields)


def test_a_hook_is_called_with_what_fits_all_it_names() -> None:
    app, found = ringq.App("a"), list[ringq.Event]()

    @app.task
    def resize() -> None:
        """Do nothing."""

    app.on("failed", "dead_letter", kind=resize, group="g")(found.append)
    (hook,) = app.hooks()
    assert hook.wants(event("failed", kind="a::resize", group="g"))
    assert hook.wants(event("dead_letter", kind="a::resize", group="g"))
    assert not hook.wants(event("completed", kind="a::resize", group="g"))
    assert not hook.wants(event("failed", kind="a::other", group="g"))
    assert not hook.wants(event("failed", kind="a::resize"))


def test_what_one_hook_raises_is_told_and_the_next_is_called(capfd: pytest.CaptureFixture[str]) -> None:
    app, found = ringq.App("a"), list[ringq.Event]()

    @app.on("failed")
    def broken(_: ringq.Event) -> None:
        raise KeyError("oops")

    app.on("failed")(found.append)
    call(app.hooks(), event("failed", task=7))
    assert len(found) == 1
    told = capfd.readouterr().err
    assert "broken failed on failed of task 7: KeyError: 'oops'" in told
    assert "test_hooks.py" in told


def test_an_app_has_the_hooks_of_those_it_includes_whenever_they_were_declared() -> None:
    outer, inner = ringq.App("outer"), ringq.App("inner")
    inner.on("failed")(print)
    outer.include(inner)
    inner.on("completed")(print)
    assert [sorted(hook.words) for hook in outer.hooks()] == [["failed"], ["completed"]]
    assert outer.reports() == []  # without a kind there is nothing to tell of


def test_a_worker_reports_that_there_are_hooks_and_of_none_it_says_nothing() -> None:
    app = ringq.App("a")
    app.task(name="one")(lambda: None)
    assert "hooks" not in app.reports()[0]
    app.on("failed")(print)
    assert app.reports()[0]["hooks"] == 1


async def later(_: ringq.Event) -> None:
    """Not called."""


@pytest.mark.parametrize(
    ("declare", "error", "complaint"),
    [
        (lambda app: app.on(), ringq.InvalidOption, r'name the events, as in @app\.on\("completed"\)'),
        (lambda app: app.on("complete"), ringq.InvalidOption, "no event 'complete'; did you mean completed"),
        (lambda app: app.on("failed", kind=3), ringq.InvalidOption, "on: kind: expected text, got 3"),
        (lambda app: app.on("failed")(later), ringq.InvalidKind, "later is async: a hook is a plain function"),
        (lambda app: app.on("failed")(lambda: None), ringq.InvalidKind, "must take the event as its only argument"),
        (lambda app: app.on("failed")("x"), ringq.InvalidKind, "expected a function of an event, got 'x'"),
    ],
)
def test_what_can_be_no_hook_is_refused(declare: Callable[[Any], Any], error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        declare(ringq.App("a"))
