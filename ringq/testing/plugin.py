"""Face: pytest's fixtures. Installed with ringq, so pytest loads it by itself; it imports ringq when a test asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from ringq import Server
    from ringq.testing.run import Inline


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that names the App."""
    parser.addini("ringq_app", 'the App that ringq\'s fixtures run, as "photos:app"')


@pytest.fixture
def ringq_app(request: pytest.FixtureRequest) -> Any:
    """The App under test: that of the ini option `ringq_app`. A fixture of your own with this name decides first."""
    target = request.config.getini("ringq_app")
    if not target:
        raise pytest.UsageError(
            'ringq: no app is named: set `ringq_app = "photos:app"` in pytest\'s configuration, or write a fixture '
            "ringq_app that returns the App"
        )
    from ringq.errors import AppImportError  # noqa: PLC0415 - for tests that use ringq
    from ringq.loading import load_app  # noqa: PLC0415

    try:
        return load_app(target)
    except AppImportError as error:
        raise pytest.UsageError(f"ringq_app: {error}") from None


@pytest.fixture
def ringq_inline(ringq_app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inline]:
    """An inline run with a database of this test's own; RINGQ_DB names it, for threads that have no client."""
    from ringq.testing.run import inline  # noqa: PLC0415 - for tests that use it

    with inline(ringq_app, tmp_path) as run:
        monkeypatch.setenv("RINGQ_DB", str(run.database))
        yield run


@pytest.fixture
def ringq_server(ringq_app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A real server with one worker process, and a database of this test's own; RINGQ_DB names it."""
    from ringq.testing.pool import server  # noqa: PLC0415 - for tests that use it

    with server(ringq_app, tmp_path) as served:
        monkeypatch.setenv("RINGQ_DB", str(served.database))
        yield served
