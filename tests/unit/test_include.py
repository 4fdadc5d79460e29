"""An App takes in the kinds of another: under their names, with their states, whenever they are made."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ringq


@pytest.fixture
def app() -> ringq.App:
    return ringq.App("photos")


@pytest.fixture
def other() -> ringq.App:
    return ringq.App("media")


def plain() -> int:
    return 1


def test_kinds_of_another_app_keep_their_names_and_defaults(app: ringq.App, other: ringq.App) -> None:
    app.task(plain)
    resize = other.domain("video", queue="bulk").task(name="resize")(plain)
    app.include(other)
    assert list(app.kinds()) == ["photos::plain", "video::resize"]
    assert app.kinds()["video::resize"] is resize
    assert [report["queue"] for report in app.reports()] == [None, "bulk"]
    assert list(other.kinds()) == ["video::resize"]


def test_what_is_decorated_after_the_inclusion_is_taken_in_too(app: ringq.App, other: ringq.App) -> None:
    outermost = ringq.App("all")
    outermost.include(app)
    app.include(other)
    other.task(plain)
    assert list(app.kinds()) == list(outermost.kinds()) == ["media::plain"]


def test_an_app_that_comes_by_two_ways_comes_once(app: ringq.App, other: ringq.App) -> None:
    both = ringq.App("both")
    both.task(plain)
    for one in (app, other):
        one.include(both)
        one.include(both)
    app.include(other)
    app.include(both)
    assert list(app.kinds()) == ["both::plain"]


def test_a_kind_that_is_taken_is_refused_whichever_comes_first(app: ringq.App, other: ringq.App) -> None:
    app.domain("media").task(plain)
    other.task(name="fine")(plain)
    taken = other.task(plain)
    with pytest.raises(ringq.InvalidKind, match=r"media::plain is defined twice, at .*test_include.py:\d+ and at "):
        app.include(other)
    assert list(app.kinds()) == ["media::plain"]  # nothing of it was taken in
    assert app.kinds()["media::plain"] is not taken
    later = ringq.App("later")
    app.include(later)
    with pytest.raises(ringq.InvalidKind, match="media::plain is defined twice"):
        later.domain("media").task(plain)
    assert not later.kinds()


def test_apps_do_not_include_each_other_nor_themselves(app: ringq.App, other: ringq.App) -> None:
    app.include(other)
    with pytest.raises(ringq.InvalidKind, match="media cannot include photos, which is or includes media"):
        other.include(app)
    with pytest.raises(ringq.InvalidKind, match="cannot include"):
        app.include(app)


def test_what_is_no_app_is_not_included(app: ringq.App) -> None:
    with pytest.raises(ringq.InvalidKind, match=r"photos: include takes a ringq.App, got <domain video>"):
        app.include(app.domain("video"))  # type: ignore[arg-type]


def test_each_handler_has_the_states_of_its_own_app_and_all_are_made_at_the_start(
    app: ringq.App, other: ringq.App
) -> None:
    made = []

    @app.state
    def number() -> int:
        made.append("number")
        return 5

    @other.state
    def greater_number() -> int:
        made.append("greater")
        return 7

    def own(ctx: ringq.Context) -> int:
        return ctx.state(int)

    mine, theirs = app.task(own), other.task(own)
    app.include(other)
    app.states.start()
    assert made == ["number", "greater"]
    assert (mine(), theirs()) == (5, 7)
    assert made == ["number", "greater"]


def test_nothing_of_ringq_imports_what_comes_along() -> None:
    lines = "import sys, ringq, ringq.worker, ringq.cli; [getattr(ringq, name) for name in ringq.__all__]"
    show = "print([name for name in sys.modules if name.startswith('ringq.contrib')])"
    ran = subprocess.run([sys.executable, "-c", f"{lines}; {show}"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
