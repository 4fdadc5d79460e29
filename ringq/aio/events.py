"""Answer: what happens, as it happens, for who awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Self

from ringq import protocol
from ringq.aio.wire import close_soon
from ringq.client.events import Kinds, Names, Subscription, Tasks, subscription
from ringq.client.line import Line
from ringq.events import Event
from ringq.kinds import options


class EventStream(Subscription, AsyncIterator[Event]):
    """What happens, event by event, for `async for`. Made by `ringq.aio.Client.events`."""

    def __init__(self, line: Line, wanted: protocol.Subscribe, timeout: float | None = None) -> None:
        """Subscribes when it is entered, or else when the first event is asked for."""
        super().__init__(line, wanted, timeout)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()

    def __del__(self) -> None:
        # Who breaks off an `async for` often closes nothing.
        close_soon(self._loop, self._line.close)

    async def __anext__(self) -> Event:
        """The next event. Raises ServerUnavailable, ClientClosed, WaitTimeout, InvalidOption."""
        async with self._turn:
            await self._subscribed()
            event = await self._next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        async with self._turn:
            await self._subscribed()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream, and its connection. Who waits for its next event is told that there is none."""
        super().close()
        self._line.close()

    async def _subscribed(self) -> None:
        if self._loop is None:
            await self._begin()
            self._loop = asyncio.get_running_loop()


class Watching:
    """The part of a client that reads events."""

    def _own_line(self) -> Line:
        raise NotImplementedError

    def events(
        self, words: Names = None, *, domain: Names = None, kind: Kinds = None, group: Names = None,
        task: Tasks = None, buffer: int = 1000, timeout: float | timedelta | None = None,
    ) -> EventStream:  # fmt: skip
        """What happens, for `async for`, as `ringq.Client.events` tells it, with the same arguments.

        From when it is entered on: `async with client.events() as events:`; or from the first event that is asked for.
        It has a connection of its own, which is closed with it. If the server goes away, it goes on with the next one,
        after a `lost` event without a count.

        Raises InvalidOption at once; then what `ringq.Client.events` raises.
        """
        wanted = subscription(words, domain, kind, group, task, buffer)
        return EventStream(self._own_line(), wanted, options.seconds_of("timeout", timeout))
