"""Answer: the results of a map for who awaits them; and inputs that are awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar

from ringq.aio.wire import close_soon
from ringq.client.mapping import Course
from ringq.client.source import IDLE, READ_S, Source
from ringq.errors import ClientClosed
from ringq.kinds import MapCall
from ringq.kinds.options import seconds_of

R = TypeVar("R")


class MapResults(Course[R], AsyncIterator[R], Generic[R]):
    """The results of a map, for `async for`. It goes on after a call that failed. Made by `ringq.aio.Client.map`."""

    def __init__(self, source: Source, *args: Any, **kwargs: Any) -> None:
        super().__init__(source, *args, **kwargs)
        self._turn = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        if isinstance(source, Awaited):
            source.tell = self._follow.nudge

    def __del__(self) -> None:
        # Who breaks off an `async for` often closes nothing.
        close_soon(self._loop, self._source.close)
        close_soon(self._loop, self._follow.close)

    async def __anext__(self) -> R:
        """The next result. May be awaited by several tasks: each result goes to one of them.

        Raises as `ringq.MapResults.__next__`, and StopAsyncIteration at the end. Who is cancelled loses nothing:
        the next one who asks goes on.
        """
        call = await self._next(None)
        if call is None:
            raise StopAsyncIteration
        if call.error is None:
            return call.result  # type: ignore[return-value]
        if self._raises:
            raise call.error
        return call.error  # type: ignore[return-value]

    async def calls(self) -> AsyncIterator[MapCall[R]]:
        """The calls with their place among the inputs, those that failed too; nothing a call raised is raised."""
        while (call := await self._next(None)) is not None:
            yield call

    async def next_call(self, timeout: float | timedelta | None = None) -> MapCall[R] | None:
        """As `ringq.MapResults.next_call`."""
        return await self._next(seconds_of("timeout", timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def _next(self, seconds: float | None) -> MapCall[R] | None:
        self._loop = asyncio.get_running_loop()
        async with self._turn:
            while not (ready := self._at.ready):
                if self._is_over:
                    return None
                try:
                    await self._advance(seconds)
                except ClientClosed:
                    if not self._is_over:
                        raise
                if seconds is not None and not self._at.ready:
                    return None
            return ready.popleft()


class Awaited(Source):
    """Reads an iterable that is awaited, in a task of its own, no further ahead than was asked for.

    Attributes: `tell`, called when something has arrived and nobody asks.
    """

    def __init__(self, iterable: AsyncIterable[Any], *, star: bool) -> None:
        """`star`: as of any source."""
        super().__init__(self._at_hand(), star=star)
        self._inputs = iterable
        self._came: deque[Any] = deque()
        self._wanted = 0
        self._is_read = False
        self._failure: Exception | None = None
        self._room, self._news = asyncio.Event(), asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self.tell: Callable[[], None] = _nobody

    async def gather(self, count: int) -> None:
        """Have up to so many at hand; who is slow is waited for as long as any slow iterable is."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_on(), name="ringq: inputs of a map")
        self._wanted = count
        self._room.set()
        loop = asyncio.get_running_loop()
        until = loop.time() + READ_S
        while not self._is_read and len(self._came) < count and (left := until - loop.time()) > 0:
            await self._arrival(left)

    async def arrival(self) -> None:
        """Return when there is something to `take` again."""
        while not self._came and not self._is_read:
            await self._arrival(None)

    def close(self) -> None:
        """Read no more: what gives the inputs is cancelled where it waits."""
        if self._reading is not None:
            self._reading.cancel()

    async def _arrival(self, timeout: float | None) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _read_on(self) -> None:
        try:
            async for entry in self._inputs:
                self._came.append(entry)
                self._hear()
                while len(self._came) >= self._wanted:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:
            self._failure = error
        finally:
            self._is_read = True
            self._hear()

    def _hear(self) -> None:
        self._news.set()
        if self.is_idle:
            self.tell()

    def _at_hand(self) -> Iterator[Any]:
        while True:
            if self._came:
                yield self._came.popleft()
            elif not self._is_read:
                yield IDLE
            elif self._failure is not None:
                raise self._failure
            else:
                return


def _nobody() -> None:
    """Nobody waits."""
