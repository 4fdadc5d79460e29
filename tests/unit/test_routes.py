"""An App's own word about queues: the longest beginning that fits, or a function; what is wrong is told at once."""

from __future__ import annotations

from typing import Any

import pytest

import ringq


def queues(app: ringq.App) -> dict[str, str | None]:
    return {report["name"]: report["queue"] for report in app.reports()}


def test_the_longest_beginning_wins_and_what_is_nearer_wins_over_all() -> None:
    app = ringq.App("media", route={"m": "all", "media::thumb": "fast", "media::": "bulk"})

    @app.task
    def thumbnail() -> None: ...

    @app.task
    def convert() -> None: ...

    @app.task(queue="own")
    def special() -> None: ...

    @app.domain("other").task
    def plain() -> None: ...

    assert queues(app) == {
        "media::thumbnail": "fast", "media::convert": "bulk", "media::special": "own", "other::plain": None,
    }  # fmt: skip


def test_a_function_is_asked_once_for_each_kind() -> None:
    asked: list[str] = []

    def route(kind: str) -> str | None:
        asked.append(kind)
        return "slow" if kind.endswith("convert") else None

    app = ringq.App("media", route=route)

    @app.task(aliases=["media::transcode"])
    def convert() -> None: ...

    @app.task
    def thumbnail() -> None: ...

    assert queues(app) == {"media::convert": "slow", "media::transcode": "slow", "media::thumbnail": None}
    assert asked == ["media::convert", "media::thumbnail"]


@pytest.mark.parametrize(
    ("route", "complaint"),
    [
        ("bulk", "expected {'media::': 'bulk'}, or a function"),
        ({"media::": "a,b"}, "route: media::: queue: expected a name without comma or colon"),
        ({"media::": None}, "route: media::: queue"),
        ({"": "bulk"}, "expected the beginning of a kind, as 'media::', got ''"),
        ({3: "bulk"}, "expected the beginning of a kind"),
    ],
)
def test_a_wrong_route_is_refused_when_the_app_is_made(route: Any, complaint: str) -> None:
    with pytest.raises(ringq.InvalidOption) as caught:
        ringq.App("media", route=route)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(("answer", "complaint"), [("a:b", "route: media::convert: queue"), (7, "queue")])
def test_a_function_that_answers_wrongly_is_told_where_the_task_stands(answer: Any, complaint: str) -> None:
    app = ringq.App("media", route=lambda kind: answer)

    def convert() -> None: ...

    with pytest.raises(ringq.InvalidOption, match=complaint):
        app.task(convert)
    assert app.kinds() == {}


def test_a_function_that_raises_is_told_with_the_kind() -> None:
    app = ringq.App("media", route=lambda kind: {"media::other": "a"}[kind])

    def convert() -> None: ...

    with pytest.raises(ringq.InvalidOption, match="route: asked for media::convert, it raised KeyError"):
        app.task(convert)
