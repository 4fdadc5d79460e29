"""Events as a client reads them, one that blocks and one that is awaited."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, serving

import ringq
import ringq.aio
from ringq.events import Event

AT = datetime(2026, 1, 2, tzinfo=UTC)
Reading = Callable[..., Any]


@asynccontextmanager
async def blocking(database: Path, *words: str, reconnect: float = 5, **asked: Any) -> AsyncIterator[Any]:
    """A function that gives the next event, of a client that blocks; None at the end."""
    with ringq.connect(database, reconnect=reconnect) as client, client.events(*words, **asked) as stream:

        async def following() -> Event | None:
            return next(stream, None)

        following.close = stream.close  # type: ignore[attr-defined]
        yield following


@asynccontextmanager
async def awaited(database: Path, *words: str, reconnect: float = 5, **asked: Any) -> AsyncIterator[Any]:
    """The same of one that is awaited."""
    async with (
        ringq.aio.connect(database, reconnect=reconnect) as client,
        client.events(*words, **asked) as stream,
    ):

        async def following() -> Event | None:
            return await anext(stream, None)

        following.close = stream.close  # type: ignore[attr-defined]
        yield following


@pytest.fixture(params=[blocking, awaited])
def reading(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


def lead(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 50))


def event(word: str, task: int) -> Event:
    return Event(word=word, at=AT, task=task)


def test_what_is_told_from_the_beginning_on_comes_in_order(reading: Reading, database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with reading(database, "completed", kind="shop::add", task=[2, 1], buffer=50) as following:
                (asked,) = server.seen_subscriptions
                assert (asked.words, asked.kinds, asked.tasks, asked.buffer) == (
                    ("completed",), ("shop::add",), (1, 2), 50,
                )  # fmt: skip
                server.tell(event("completed", 1), event("completed", 2))
                server.tell(event("completed", 3), lost=7)
                assert [await following() for _ in range(2)] == [event("completed", 1), event("completed", 2)]
                lost = await following()
                assert (lost.word, lost.count) == ("lost", 7)
                assert await following() == event("completed", 3)
                following.close()
                assert await following() is None

    lead(test)


def test_a_reader_goes_on_with_the_next_server_after_saying_that_something_may_be_lost(
    reading: Reading, database: Path
) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with reading(database) as following:
                server.stop()
                server.start()
                lost = await following()
                assert (lost.word, lost.count) == ("lost", None)
                server.tell(event("submitted", 4))
                assert await following() == event("submitted", 4)

    lead(test)


def test_who_has_waited_long_enough_is_told_so(reading: Reading, database: Path) -> None:
    async def test() -> None:
        with serving(database):
            async with reading(database, timeout=0.05) as following:
                with pytest.raises(ringq.WaitTimeout, match="no more events within"):
                    await following()

    lead(test)


def test_a_reader_needs_a_server_and_options_that_make_sense(reading: Reading, database: Path) -> None:
    async def test() -> None:
        with pytest.raises(ringq.ServerUnavailable):
            async with reading(database, reconnect=0):
                pass
        for wrong in ({"task": "x"}, {"buffer": True}, {"kind": 5}, {"timeout": "soon"}):
            with pytest.raises(ringq.InvalidOption):
                async with reading(database, **wrong):
                    pass

    lead(test)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_stream_that_nobody_has_any_more_or_that_is_closed_ends_its_connection(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client:
                stream = client.events("completed")
                waiting = asyncio.create_task(anext(stream, None))
                await until(lambda: bool(server.readers))
                stream.close()
                assert await waiting is None
                await until(lambda: server.connected == 0)

                server.readers.clear()
                ending = asyncio.create_task(first(client))
                await until(lambda: bool(server.readers))
                server.tell(event("completed", 1))
                assert await ending == event("completed", 1)
                gc.collect()
                await until(lambda: server.connected == 0)

    lead(test)


async def first(client: ringq.aio.Client) -> Event | None:
    async for found in client.events():
        return found
    return None


def test_two_tasks_may_read_one_stream(database: Path) -> None:
    async def test() -> None:
        with serving(database) as server:
            async with ringq.aio.connect(database) as client, client.events() as stream:
                both = [asyncio.create_task(anext(stream)) for _ in range(2)]
                await told(server, 2)
                found = await asyncio.gather(*both)
                assert sorted(one.task or 0 for one in found) == [1, 2]

    lead(test)


async def told(server: FakeServer, count: int) -> None:
    for number in range(1, count + 1):
        server.tell(event("completed", number))
        await asyncio.sleep(0)
