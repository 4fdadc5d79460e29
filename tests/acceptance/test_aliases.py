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
