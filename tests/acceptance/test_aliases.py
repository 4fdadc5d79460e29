"""A kind that was renamed: what was stored under its earlier name runs, and may still be submitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import ringq

Serve = Callable[..., Any]

BEFORE = """
import ringq
app = ringq.App("photos")

@app.task
def shrink(size: int) -> int:
    return size
"""

AFTER = """
import ringq
app = ringq.App("photos")
pictures = app.domain("pictures", queue="fast")

@pictures.task(aliases=["photos::shrink"])
def resize(size: int) -> int:
    return -size
"""


def test_what_was_stored_under_the_earlier_name_runs(serve: Serve) -> None:
    served = serve(BEFORE)
    with served.client() as client:
        client.pause_queue("default")
        held = client.submit("photos::shrink", {"size": 7})
    assert served.stop() == 0
    served = serve(AFTER)
    with served.client() as client:
        client.resume_queue("default")
        assert client.handle(held.id).result(timeout=20) == -7
        later = client.submit("photos::shrink", {"size": 8})
        assert later.result(timeout=20) == -8
        record = client.query.task(later.id)
        assert (record.kind, record.queue) == ("photos::shrink", "fast")
        assert client.health()["kinds"] == ["photos::shrink", "pictures::resize"]
    assert "no handler here" not in served.stderr


def test_what_was_stored_under_the_earlier_name_has_its_keys_and_is_cancelled_under_the_new_one(serve: Serve) -> None:
    served = serve(BEFORE)
    with served.client() as client:
        client.pause_queue("default")
        old = [client.submit("photos::shrink", {"size": size}, key=f"{size}.jpg") for size in range(4)]
    assert served.stop() == 0
    new = "pictures::resize"
    served = serve(AFTER)
    with served.client() as client:
        client.pause_queue("fast")
        same = client.submit(new, {"size": 0}, key="0.jpg")
        assert (same.outcome, same.id) == (ringq.Outcome.DUPLICATE, old[0].id)
        instead = client.submit(new, {"size": 9}, key="1.jpg", on_duplicate="supersede")
        assert instead.outcome is ringq.Outcome.SUPERSEDED
        record = client.query.task(old[1].id)
        assert (record.kind, record.status) == ("photos::shrink", ringq.Status.SUPERSEDED)
        again = client.submit("photos::shrink", {"size": 9}, key="1.jpg")
        assert (again.outcome, again.id) == (ringq.Outcome.DUPLICATE, instead.id)
        both = [ringq.Submission(kind, {"size": 5}, key="5.jpg") for kind in ("photos::shrink", new)]
        assert [one.outcome for one in client.submit_many(both)] == [ringq.Outcome.DUPLICATE, ringq.Outcome.INSERTED]
        assert client.cancel_all(kind=new).cancelled == 5
        assert client.query.counts()[ringq.Status.PENDING] == 0
        freed = client.submit(new, {"size": 0}, key="0.jpg")
        assert freed.outcome is ringq.Outcome.INSERTED
        assert client.cancel_all(kind="photos::shrink").cancelled == 1


def test_while_no_server_runs_the_names_of_a_kind_are_known_from_the_last_one(serve: Serve) -> None:
    served = serve(AFTER)
    assert served.stop() == 0
    with served.client() as client:
        old = client.submit("photos::shrink", {"size": 1}, key="1.jpg")
        assert client.submit("pictures::resize", {"size": 1}, key="1.jpg").id == old.id
        assert client.cancel_all(kind="pictures::resize").cancelled == 1


def test_an_alias_that_is_taken_or_no_kind_is_refused_where_it_stands() -> None:
    app = ringq.App("photos")

    @app.task
    def shrink() -> None: ...

    def resize() -> None: ...

    with pytest.raises(ringq.InvalidKind, match="photos::shrink is defined twice"):
        app.task(aliases=["photos::shrink"])(resize)
    assert list(app.kinds()) == ["photos::shrink"]
    with pytest.raises(ringq.InvalidOption, match="expected domain::name"):
        app.task(aliases=["shrink"])(resize)
    with pytest.raises(ringq.InvalidOption, match=r"expected a list of kinds, as \['photos::shrink'\]"):
        app.task(aliases="photos::shrink")(resize)
