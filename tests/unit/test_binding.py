"""Which client `task.submit(...)` means."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import ringq
from ringq import errors
from ringq.kinds import Submission, Submitted, binding

app = ringq.App("shop")


@app.task
def buy(what: str) -> str:
    return what


class Recorder:
    """A client that only remembers."""

    def __init__(self) -> None:
        self.payloads: list[str] = []

    def _submit_one(self, submission: Submission[Any]) -> Submitted[Any]:
        self.payloads.append(submission.payload)
        return Submitted(1, submission.kind, self)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _nothing_cached() -> Iterator[None]:
    binding._from_environment.clear()
    yield
    binding._from_environment.clear()


def test_without_a_client_it_says_how() -> None:
    with pytest.raises(errors.NotBound, match=r"ringq\.connect.*ringq\.Server.*RINGQ_DB=my\.db"):
        buy.submit("a")
    with pytest.raises(errors.NotBound):
        buy.options(priority=1).submit("a")


def test_wrong_arguments_are_told_first() -> None:
    with pytest.raises(errors.InvalidPayload):
        buy.submit()  # type: ignore[call-arg]


def test_the_innermost_block_wins() -> None:
    outer, inner = Recorder(), Recorder()
    binding.bind(outer)
    buy.submit("a")
    binding.bind(inner)
    buy.submit("b")
    binding.bind(outer)
    buy.submit("c")
    binding.unbind(outer)
    buy.submit("d")
    binding.unbind(inner)
    buy.submit("e")
    binding.unbind(outer)
    with pytest.raises(errors.NotBound):
        buy.submit("f")
    assert outer.payloads == ['{"what":"a"}', '{"what":"c"}', '{"what":"e"}']
    assert inner.payloads == ['{"what":"b"}', '{"what":"d"}']


def test_blocks_left_out_of_order_unbind_their_own(tmp_path: Path) -> None:
    first, second = ringq.connect(tmp_path / "1.db"), ringq.connect(tmp_path / "2.db")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert binding.current() is second
    second.__exit__(None, None, None)
    with pytest.raises(errors.NotBound):
        binding.current()


def test_threads_have_their_own_and_contexts_carry_it() -> None:
    client = Recorder()
    binding.bind(client)
    errors_seen: list[BaseException] = []

    def work() -> None:
        try:
            buy.submit("thread")
        except ringq.NotBound as error:
            errors_seen.append(error)

    plain = threading.Thread(target=work)
    copied = threading.Thread(target=contextvars.copy_context().run, args=(work,))
    for thread in (plain, copied):
        thread.start()
        thread.join(10)

    async def in_task() -> None:
        buy.submit("task")

    async def main() -> None:
        await asyncio.gather(in_task(), in_task())

    asyncio.run(main())
    binding.unbind(client)
    assert len(errors_seen) == 1
    assert client.payloads == ['{"what":"thread"}', '{"what":"task"}', '{"what":"task"}']


def test_the_environment_names_the_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RINGQ_DB", str(tmp_path / "a.db"))
    first = binding.current()
    assert isinstance(first, ringq.Client)
    assert first.database == tmp_path / "a.db"
    assert binding.current() is first
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGQ_DB", "a.db")
    assert binding.current() is first
    monkeypatch.setenv("RINGQ_DB", "b.db")
    assert binding.current() is not first
    assert buy.submit("a").id == 1, "no server runs: the client stores it itself"
    assert (tmp_path / "b.db").exists()
    assert not (tmp_path / "a.db").exists()
    bound = Recorder()
    binding.bind(bound)
    assert binding.current() is bound
    binding.unbind(bound)


def test_the_projects_file_names_a_database_but_binds_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ringq.toml").write_text('db = "project.db"\n')
    (tmp_path / "pyproject.toml").write_text('[tool.ringq]\ndb = "project.db"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.NotBound):
        buy.submit("a")
    assert not list(tmp_path.glob("project.db*"))


def test_a_server_that_was_not_started_binds_nothing(tmp_path: Path) -> None:
    server = ringq.Server("handlers:app", tmp_path / "t.db")
    with pytest.raises(errors.NotBound):
        binding.current()
    assert server.stop() is None
    assert repr(server) == f"<server of {tmp_path / 't.db'} for handlers:app: not started>"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "workers: 0 is neither auto nor 1 to 255"),
        ({"workers": "two"}, "workers: 'two' is neither auto nor 1 to 255"),
        ({"queues": ["a", "a"]}, "queues: 'a' is named twice"),
        ({"queues": {"bulk": -1}}, "queues: '-1' in 'bulk:-1' is no number of tasks"),
        ({"durability": "none"}, "durability: 'none' is not full or normal"),
        ({"drain_timeout": -1}, "drain_timeout: -1 is no span of 0 or more"),
        ({"drain_timeout": timedelta(days=2)}, "drain_timeout: .*0 to 86400"),
        ({"start_timeout": "soon"}, "start_timeout: 'soon' is no span"),
        ({"quiet": "perhaps"}, "quiet: 'perhaps' is neither true nor false"),
        ({"database": ""}, "database: expected the path of a file, got ''"),
        ({"database": 7}, "database: expected the path of a file, got 7"),
        ({"workers": 256}, "workers: 256 is neither auto nor 1 to 255"),
    ],
)
def test_options_of_a_server_are_checked_where_they_stand(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidOption, match=says):
        ringq.Server("handlers:app", **{"database": tmp_path / "t.db", **options})


def test_spans_and_workers_of_a_server_are_written_as_those_of_an_app(tmp_path: Path) -> None:
    for span in ("1m", 60, timedelta(minutes=1)):
        server = ringq.Server("handlers:app", tmp_path / "t.db", workers="auto", drain_timeout=span, quiet=None)
        assert server._flags == ["--workers=auto", "--drain-timeout=60.0"]
        assert ringq.App("a", workers="auto", drain_timeout=span).settings == {"workers": 0, "drain_timeout_s": 60.0}


def test_a_text_that_names_no_app_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(errors.AppImportError, match="'x' does not name a module and its app"):
        ringq.Server("x", tmp_path / "t.db")


@pytest.mark.parametrize("path", ["", None, 5, b"x", "a\0b", "/", True])
def test_what_is_no_path_of_a_database_is_refused(path: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="database: expected the path of a file, got"):
        ringq.connect(path)


@pytest.mark.parametrize("reconnect", [True, -1, float("inf"), float("nan"), "3"])
def test_how_long_a_server_may_be_away_is_a_span(reconnect: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="reconnect: expected seconds"):
        ringq.connect("t.db", reconnect=reconnect)


@pytest.mark.parametrize("thing", [3, None, app.domain, Recorder])
def test_a_server_of_something_else_than_an_app_says_what_it_takes(thing: Any, tmp_path: Path) -> None:
    with pytest.raises(errors.AppImportError, match=r"app: expected a ringq\.App, one of its tasks, or text"):
        ringq.Server(thing, tmp_path / "t.db")
