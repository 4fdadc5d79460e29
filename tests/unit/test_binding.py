"""Which client `task.submit(...)` means."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterable, Iterator
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

    def submit_many(self, submissions: Iterable[Submission[Any]]) -> list[Submitted[Any]]:
        batch = list(submissions)
        self.payloads += [one.payload for one in batch]
        return [Submitted(number, one.kind, self) for number, one in enumerate(batch, 1)]  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _nothing_cached() -> Iterator[None]:
    binding._from_environment.clear()
    yield
    binding._from_environment.clear()


def test_without_a_client_it_says_how() -> None:
    with pytest.raises(errors.NotBound, match=r"ringq\.connect.*RINGQ_DB=my\.db"):
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
    with pytest.raises(errors.ServerUnavailable, match=r"b\.db"):
        buy.submit("a")
    bound = Recorder()
    binding.bind(bound)
    assert binding.current() is bound
    binding.unbind(bound)
